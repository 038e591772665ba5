"""One small model of every family without labels: generative models, autoencoders and others."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from model_rows import (
    BLOCK,
    CONDITIONING,
    MODULATION,
    NOISE,
    ONE,
    ROWS,
    SIZE,
    UNET,
    Boxes,
    Captioned,
    Forecasts,
    Images,
    Keypoints,
    Nodes,
    Patches,
    Row,
    Speech,
    Unlabelled,
    Users,
)

import jdl
from jdl.layers import LogMel
from jdl.models.autoencoder import VAE, Autoencoder
from jdl.models.clip import CLIP, TextTower
from jdl.models.cnn import CNN
from jdl.models.dcgan import Discriminator, Generator, SpectralNormDiscriminator
from jdl.models.dit import DiT
from jdl.models.embedding_bag import EmbeddingBag
from jdl.models.factorization import MatrixFactorization
from jdl.models.fast_speech import FastSpeech
from jdl.models.fcos import FCOS
from jdl.models.gnn import GCN, GNN
from jdl.models.mae import MaskedAutoencoder
from jdl.models.mlp import MLP
from jdl.models.nbeats import NBEATS
from jdl.models.pose_resnet import PoseResNet
from jdl.models.realnvp import RealNVP
from jdl.models.resnet import ResNet
from jdl.models.sasrec import SASRec
from jdl.models.tcn import TCN
from jdl.models.two_towers import TwoTowers
from jdl.models.unet import UNet
from jdl.models.vit import ViT
from jdl.models.word_vectors import WordVectors
from jdl.objectives import (
    adversarial,
    arcface,
    autoencode,
    byol,
    classify,
    contrastive,
    deep_clustering,
    deep_svdd,
    detect,
    diffusion,
    elbo,
    estimate_pose,
    fixmatch,
    forecast_quantiles,
    hinge_gan,
    link_prediction,
    masked_patches,
    normalizing_flow,
    recommend,
    simclr,
    skip_gram,
    text_to_speech,
    triplet,
    wasserstein,
)
from jdl.objectives.pretrained_model import Weights
from jdl.weights.load import arrays_by_path


def given_weights() -> tuple[dict[str, Any], str, str]:
    """Weights of the teacher, as of a file, what stands for its SHA-256, and a source."""
    model = TEACHER.model
    return arrays_by_path(model.init(jax.random.key(9), jnp.ones((1, 8, 8, 1)))), "0" * 64, "given"


TEACHER = jdl.pretrained(CNN(5, ((6, 1),), dense=(), batch_norm=True), Weights(given_weights))


UNSUPERVISED = [
    Images(
        "autoencoder",
        Autoencoder((4, 4, 1), 3, hidden=(8,), batch_norm=True),
        (4, 4, 1),
        (16 * 8 + 8) + (8 * 3 + 3) + (3 * 8 + 8) + (8 * 16 + 16),
        objective=partial(autoencode, noise=0.1),
    ),
    Images(
        "vae",
        VAE((8, 8, 1), 3, (4,), (6,)),
        (8, 8, 1),
        40 + (64 * 6 + 6) + (6 * 6 + 6) + (3 * 6 + 6) + (6 * 64 + 64) + (9 * 4 * 4 + 4),
        objective=partial(elbo, importance_samples=3),
    ),
    Images(
        "gan",
        Generator((8, 8, 1), (8, 4)),
        (8, 8, 1),
        (5 * 32 + 16) + (9 * 8 * 32 // 2 + 8) + (9 * 4 * 4 + 4) + 40 + 296 + 33,
        objective=lambda generator: adversarial(generator, Discriminator((4, 8)), 5, wasserstein),
    ),
    Images(
        "gan-spectral",
        Generator((8, 8, 1), (8, 4), full_size_channels=3),
        (8, 8, 1),
        (5 * 32 + 16) + (9 * 8 * 16 + 8) + (9 * 4 * 12 + 6) + (9 * 3 + 1) + 68 + 520 + 584 + 33,
        3e-3,
        lambda generator: adversarial(generator, SpectralNormDiscriminator((4, 8)), 5, hinge_gan),
    ),
    Images(
        "clusters",
        Autoencoder((8, 8, 1), 3, hidden=(8,)),
        (8, 8, 1),
        (64 * 8 + 8) + (8 * 3 + 3) + (3 * 8 + 8) + (8 * 64 + 64) + 4 * 3,
        objective=partial(deep_clustering, clusters=4, noise=0.1, contrastive_weight=0.1),
    ),
    Images(
        "distilled",
        CNN(5, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 5 + 5) + 4 * 6,
        objective=lambda student: jdl.distil(
            classify(student), TEACHER, weight=0.5, features={"Conv_0": "Conv_0"}
        ),
    ),
    Images(
        "mutual",
        CNN(5, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 5 + 5) + (9 * 6 + 12) + (96 * 5 + 5),
        objective=lambda student: jdl.mutual(
            classify(student), CNN(5, ((6, 1),), dense=(), batch_norm=True)
        ),
    ),
    Images(
        "fake-quantized",
        CNN(5, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 5 + 5),
        objective=lambda model: jdl.fake_quantize(classify(model), "kernel", activations=True),
    ),
    Unlabelled(
        "fixmatch",
        CNN(5, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 5 + 5),
        objective=partial(fixmatch, weak=NOISE, strong=(NOISE, NOISE), threshold=0.25),
    ),
    Images(
        "triplet",
        CNN(4, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 4 + 4),
        objective=triplet,
    ),
    Images(
        "arcface",
        CNN(4, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 4 + 4) + 5 * 4,
        objective=partial(arcface, classes=5),
    ),
    Images(
        "simclr",
        MLP(4, (6,)),
        (8, 8, 1),
        (64 * 6 + 6) + (6 * 4 + 4) + (4 * 6 + 6) + (6 * 3 + 3),
        objective=partial(simclr, projection=MLP(3, (6,)), augment=NOISE),
    ),
    Images(
        "byol",
        CNN(4, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 4 + 4) + (4 * 3 + 3) + (3 * 3 + 3),
        objective=partial(byol, projection=MLP(3), prediction=MLP(3), augment=NOISE),
        wrap=jdl.target_network,
    ),
    Patches(
        "mae",
        MaskedAutoencoder(4, ONE, ONE),
        (8, 8, 1),
        (16 * 8 + 8 + 4 * 8 + BLOCK + 16) + (72 + 8 + 4 * 8 + BLOCK + 16 + (8 * 16 + 16)),
        objective=partial(masked_patches, patch_size=4, mask_ratio=0.5),
    ),
    Captioned(
        "two-towers",
        CNN(4, ((4, 1),), dense=(), batch_norm=True),
        (8, 16, 1),
        (9 * 4 + 8) + (128 * 4 + 4) + (13 * 4 + 13) + 1,
        objective=lambda model: contrastive(model, EmbeddingBag(SIZE, 4)),
    ),
    Captioned(
        "clip",
        CLIP(
            ViT(None, 4, ONE, "class", embedding_norm=True),
            TextTower(SIZE, replace(ONE, rotary=False)),
            4,
            (8, 16, 1),
        ),
        (8, 16, 1),
        (16 * 8 + 9 * 8 + 8 + 16 + BLOCK + 16) + ((13 + 16) * 8 + BLOCK + 16) + 2 * 8 * 4 + 1,
        3e-3,
        objective=contrastive,
    ),
    Images(
        "unet",
        UNet((8, 8), classes=5),
        (8, 8, 1),
        CONDITIONING + UNET + 5 * MODULATION + (9 * 16 + 1),
        objective=partial(diffusion, classes=5),
    ),
    Images(
        "dit",
        DiT(4, replace(ONE, rotary=False)),
        (8, 8, 1),
        (16 * 8 + 8) + 4 * 8 + 2 * 72 + (BLOCK - 2 * 16) + 2 * (8 * 24 + 24) + 2 * (8 * 16 + 16),
        2e-2,
        objective=diffusion,
    ),
    Images(
        "realnvp",
        RealNVP(2, hidden=(8,)),
        (4, 4, 1),
        2 * ((16 * 8 + 8) + (8 * 32 + 32)),
        objective=partial(normalizing_flow, levels=2),
    ),
    Boxes(
        "fcos",
        FCOS(3, ResNet(None, ((4, 1), (8, 1))), 8, 1, 2),
        (16, 16, 1),
        (36 + 8 + 304 + 304 + 592 + 48)  # the backbone
        + ((72 + 40) + 2 * 584)  # the pyramid
        + (2 * 592 + (9 * 8 * 3 + 3) + (9 * 8 * 5 + 5)),
        objective=detect,
    ),
    Keypoints(
        "pose-resnet",
        PoseResNet(2, ResNet(None, ((4, 1), (8, 1))), 8, 1),
        (16, 16, 1),
        (36 + 8 + 304 + 304 + 592 + 48)  # the backbone
        + (9 * 8 * 32 + 16 + 8 * 2 + 2),
        objective=estimate_pose,
    ),
    Forecasts(
        "tcn",
        TCN(4 * 3, (4,), 2),
        (6, 2),
        (2 * 4 + 4) + (4 * 4 + 4) + (8 * 4 + 4) + (4 * 12 + 12),
        objective=partial(forecast_quantiles, scale=2.0, naive_error=0.5),
    ),
    Forecasts(
        "nbeats",
        NBEATS(4 * 3, 2, 1, 8, 3),
        (6, 2),
        2 * ((12 * 8 + 8) + (8 * 3 + 3 * 12 + 12)) + (8 * 3 + 3 * 12 + 12),
        objective=forecast_quantiles,
    ),
    Images(
        "deep-svdd",
        MLP(3, (8,), use_bias=False),
        (4, 4, 1),
        16 * 8 + 8 * 3,
        objective=deep_svdd,
    ),
    Speech(
        "fast-speech",
        FastSpeech(5, 4, ONE, decoder_depth=1, kernel=3),
        (24 * 4,),
        5 * 8 + 2 * (BLOCK + 2 * 8 * 32 + 16 + (8 * 4 + 4)) + 9,
        objective=partial(text_to_speech, log_mel=LogMel(8_000, 32, 4, 4), max_frames=24),
        output=(24, 4),
    ),
    Users(
        "sasrec",
        SASRec(SIZE, replace(ONE, rotary=False)),
        (6,),
        (13 + 16) * 8 + BLOCK + 16,
        2e-2,
        recommend,
        ragged=True,
    ),
    Users(
        "matrix-factorization",
        jdl.adapt_model(MatrixFactorization(ROWS, SIZE, 8), inputs=("user",)),
        (6,),
        12 * 8 + 13 * 8 + 13,
        5e-2,
        partial(recommend, loss="bpr"),
    ),
    Users(
        "item-towers",
        TwoTowers(SIZE, 8, (8,), features=np.eye(SIZE, 3, dtype=np.float32)),
        (6,),
        13 * 8 + 3 * 8 + 2 * (8 * 8 + 8),
        5e-2,
        partial(recommend, loss="in_batch", counts=(0, *range(1, SIZE))),
        ragged=True,
    ),
    Row(
        "word-vectors",
        WordVectors(SIZE, 4),
        (6,),
        2 * 13 * 4,
        1e-1,
        partial(skip_gram, counts=(1,) * SIZE),
        (6, 4),
        ragged=True,
    ),
    Nodes(
        "link",
        GNN(5, (8,), GCN),
        (6, 4),
        (4 * 8 + 8) + (8 * 5 + 5),
        5e-2,
        objective=link_prediction,
    ),
]
