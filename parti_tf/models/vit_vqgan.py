"""ViT-VQGAN: pixels to discrete tokens and back (Parti 2.1; ViT-VQGAN 3)."""

from typing import Any, NamedTuple

import keras
from keras import ops

from parti_tf.config import VitConfig, VitVqganConfig
from parti_tf.layers.embeddings import GridPositionEmbedding
from parti_tf.layers.projection import Projection
from parti_tf.layers.transformer import TransformerBlock, layer_norm
from parti_tf.layers.vector_quantizer import Quantized, VectorQuantizer
from parti_tf.models.configured_model import ConfiguredModel


class Reconstruction(NamedTuple):
    """What `VitVqgan` gives: images float `[B, H, W, 3]`, about [0, 1] but not clipped, and the quantizer's output."""

    images: Any
    quantized: Quantized


@keras.saving.register_keras_serializable("parti_tf")
class VitStack(keras.layers.Layer):
    """One side of the tokenizer: positions, Transformer blocks, LayerNorm, and the tanh head (ViT-VQGAN 3.1).

    The head is a two-layer FFN with a tanh between; its hidden width, which the paper does not print, is the
    blocks' `mlp_dim`.

    Args:
      grid_size: tokens along one side.
      input_dim: width of the inputs.
      output_dim: width of the head's output.
      num_layers, model_dim, mlp_dim, num_heads, head_dim, dropout_rate, activation: see `VitConfig`.

    Call arguments:
      inputs: `[B, grid_size**2, input_dim]`.

    Returns:
      `[B, grid_size**2, output_dim]`.
    """

    def __init__(
        self,
        grid_size: int,
        input_dim: int,
        output_dim: int,
        num_layers: int,
        model_dim: int,
        mlp_dim: int,
        num_heads: int,
        head_dim: int,
        dropout_rate: float,
        activation: str,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.grid_size = grid_size
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.num_layers = num_layers
        self.model_dim = model_dim
        self.mlp_dim = mlp_dim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.dropout_rate = dropout_rate
        self.activation = activation
        policy = self.dtype_policy
        self.embedding = Projection(input_dim, model_dim, dtype=policy, name="embedding")
        self.position = GridPositionEmbedding(grid_size, model_dim, dtype=policy, name="position")
        self.blocks = [
            TransformerBlock(
                model_dim,
                mlp_dim,
                num_heads,
                head_dim,
                activation=activation,
                dropout_rate=dropout_rate,
                dtype=policy,
                name=f"block_{index}",
            )
            for index in range(num_layers)
        ]
        self.norm = layer_norm("norm", policy)
        self.head_in = Projection(model_dim, mlp_dim, activation="tanh", dtype=policy, name="head_in")
        self.head_out = Projection(mlp_dim, output_dim, dtype=policy, name="head_out")

    def build(self, *_):
        stream = (None, self.grid_size**2, self.model_dim)
        for layer in (self.position, *self.blocks, self.norm):
            layer.build(stream)
        for layer in (self.embedding, self.head_in, self.head_out):
            layer.build()
        self.built = True

    def call(self, inputs, training=False):
        stream = self.position(self.embedding(inputs))
        for block in self.blocks:
            stream = block(stream, training=training)
        return self.head_out(self.head_in(self.norm(stream)))


@keras.saving.register_keras_serializable("parti_tf")
class VitVqgan(ConfiguredModel):
    """The image tokenizer and detokenizer (ViT-VQGAN 3.1, 3.2).

    As Parti finetunes it, the decoder gives RGB values themselves: no final sigmoid (Parti 2.1).

    Args:
      config: a `VitVqganConfig`.

    Call arguments:
      images: float `[B, image_size, image_size, 3]` in [0, 1].

    Returns:
      `Reconstruction`.

    Raises:
      ValueError: images of another size or rank, or not of floats.
    """

    config_class = VitVqganConfig
    config: VitVqganConfig

    def __init__(self, config: VitVqganConfig, **kwargs):
        super().__init__(config, **kwargs)
        policy = self.dtype_policy
        patch_dim = 3 * config.patch_size**2
        self.encoder = _stack(config.encoder, config.grid_size, patch_dim, config.encoder.model_dim, policy, "encoder")
        self.code_projection = Projection(
            config.encoder.model_dim, config.codebook_dim, dtype=policy, name="code_projection"
        )
        self.quantizer = VectorQuantizer(config.codebook_size, config.codebook_dim, dtype=policy, name="quantizer")
        self.decoder = _stack(config.decoder, config.grid_size, config.codebook_dim, patch_dim, policy, "decoder")

    def build(self, input_shape=None):
        del input_shape
        for layer in (self.encoder, self.code_projection, self.quantizer, self.decoder):
            layer.build(None)
        self.built = True

    def call(self, images, training=False):
        quantized = self.quantizer(self.encode(images, training=training), training=training)
        return Reconstruction(self.decode(quantized.codes, training=training), quantized)

    def encode(self, images, training=False):
        """Gives the vectors before quantisation, `[B, L, codebook_dim]`, of images in [0, 1]."""
        self._check(images)
        patches = images_to_patches(2.0 * ops.cast(images, self.compute_dtype) - 1.0, self.config.patch_size)
        return self.code_projection(self.encoder(patches, training=training))

    def decode(self, codes, training=False):
        """Gives images float32 `[B, H, W, 3]`, unclipped, of codes `[B, L, codebook_dim]`."""
        patches = ops.cast(self.decoder(codes, training=training), "float32")
        return patches_to_images(patches, self.config.grid_size, self.config.patch_size) * 0.5 + 0.5

    def tokenize(self, images):
        """Gives tokens int32 `[B, L]` in raster order, of images in [0, 1] (Parti 2.1)."""
        return self.quantizer.tokenize(self.encode(images))

    def detokenize(self, image_tokens):
        """Gives images float32 `[B, H, W, 3]` clipped to [0, 1], of tokens int32 `[B, L]` (Parti 2.1)."""
        codes = ops.cast(self.quantizer.lookup(image_tokens), self.compute_dtype)
        return ops.clip(self.decode(codes), 0.0, 1.0)

    def _check(self, images):
        side = self.config.image_size
        if len(images.shape) != 4 or tuple(images.shape[1:]) != (side, side, 3):
            raise ValueError(f"images have shape {tuple(images.shape)}; this model takes [batch, {side}, {side}, 3]")
        dtype = keras.backend.standardize_dtype(images.dtype)
        if "float" not in dtype:
            raise ValueError(f"images are {dtype}; this model takes floats in [0, 1]")


def images_to_patches(images, patch_size: int):
    """Cuts images `[B, H, W, C]` into patches `[B, L, patch_size**2 * C]` in raster order."""
    height, width, channels = images.shape[1:]
    rows, columns = height // patch_size, width // patch_size
    grid = ops.reshape(images, (-1, rows, patch_size, columns, patch_size, channels))
    grid = ops.transpose(grid, (0, 1, 3, 2, 4, 5))  # [B, rows, columns, patch, patch, C]
    return ops.reshape(grid, (-1, rows * columns, patch_size**2 * channels))


def patches_to_images(patches, grid_size: int, patch_size: int):
    """Joins patches `[B, L, patch_size**2 * C]` in raster order to square images `[B, H, W, C]`."""
    channels = patches.shape[-1] // patch_size**2
    grid = ops.reshape(patches, (-1, grid_size, grid_size, patch_size, patch_size, channels))
    grid = ops.transpose(grid, (0, 1, 3, 2, 4, 5))  # [B, rows, patch, columns, patch, C]
    return ops.reshape(grid, (-1, grid_size * patch_size, grid_size * patch_size, channels))


def _stack(config: VitConfig, grid_size: int, input_dim: int, output_dim: int, policy, name: str) -> VitStack:
    return VitStack(
        grid_size,
        input_dim,
        output_dim,
        num_layers=config.num_layers,
        model_dim=config.model_dim,
        mlp_dim=config.mlp_dim,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        dropout_rate=config.dropout_rate,
        activation=config.activation,
        dtype=policy,
        name=name,
    )
