"""One small supervised model of every family, with data that it can memorize: for every property.

Generative models, autoencoders and others without labels are in tests/unsupervised_table.py.
"""

from dataclasses import replace
from functools import partial

import flax.linen as nn
from model_rows import (
    BLOCK,
    ONE,
    SIZE,
    UNET,
    Bases,
    Columns,
    Lines,
    Nodes,
    Pixels,
    Plain,
    PlainNNX,
    Row,
    Sounds,
    Spans,
    Tagged,
    TwoInputs,
    apply_pair,
    apply_stateful_pair,
    init_pair,
    init_stateful_pair,
)

import jdl
from jdl.layers import ELMAN, GRU, LSTM, LayerNorm
from jdl.models.alexnet import AlexNet
from jdl.models.bert import BERT
from jdl.models.captioner import Captioner
from jdl.models.cnn import CNN
from jdl.models.convnext import ConvNeXt
from jdl.models.crnn import CRNN
from jdl.models.deep_speech import DeepSpeech2
from jdl.models.efficientnet import EfficientNet, Stage
from jdl.models.gnn import GAT, GCN, GIN, GNN, SAGE
from jdl.models.gpt import GPT
from jdl.models.lenet import LeNet5
from jdl.models.mlp import MLP
from jdl.models.mpnn import MPNN
from jdl.models.resnet import ResNet
from jdl.models.rnn import RNN
from jdl.models.sequence_cnn import SequenceCNN
from jdl.models.sound_cnn import SoundCNN
from jdl.models.t5 import T5
from jdl.models.unet import UNet
from jdl.models.vit import ViT
from jdl.objectives import (
    crf,
    ctc,
    extractive_qa,
    next_token,
    segment,
    seq2seq,
)

TABLE = [
    Row("perceptron", MLP(5), (4, 4, 1), 16 * 5 + 5, 1e-1),
    Row("mlp", MLP(5, hidden=(32, 16)), (4, 4, 1), (16 * 32 + 32) + (32 * 16 + 16) + (16 * 5 + 5)),
    Row(
        "cnn",
        CNN(5, blocks=((4, 1), (8, 1)), dense=(16,)),
        (9, 8, 2),
        76 + 296 + (32 * 16 + 16) + 85,
    ),
    Row(
        "cnn-norm",
        CNN(5, blocks=((4, 2), (8, 1)), dense=(), batch_norm=True),
        (8, 8, 1),
        (36 + 8) + (144 + 8) + (288 + 16) + (32 * 5 + 5),
    ),
    Row(
        "lenet",
        LeNet5(5),
        (28, 28, 1),
        156 + 2_416 + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 5 + 5),
        3e-3,
    ),
    Row(
        "alexnet",
        AlexNet(5, channels=(8, 16, 16, 16, 16), dense=(32,), dropout=0.0),
        (15, 15, 1),
        80 + 3_216 + 3 * 2_320 + (16 * 32 + 32) + (32 * 5 + 5),
        3e-3,
    ),
    Row(
        "resnet",
        ResNet(5, ((8, 1), (16, 1))),
        (8, 8, 2),
        (144 + 16) + 2 * (576 + 16) + (1_152 + 32) + (2_304 + 32) + (128 + 32) + (16 * 5 + 5),
    ),
    Row(
        "resnet-bottleneck",
        ResNet(5, ((4, 1), (8, 1)), bottleneck=True, large_images=True),
        (16, 16, 1),
        (196 + 8) + (24 + 152 + 2 * 96) + (144 + 592 + 320 + 576) + (32 * 5 + 5),
    ),
    Row(
        "efficientnet",
        EfficientNet(
            5, 0.25, stages=(Stage(4, 48, 2, 5),), strides=(1, 2), dropout=0.0, drop_path=0.0
        ),
        (8, 8, 1),
        88 + (320 + 864 + 162 + 544) + (1_152 + 1_728 + 580 + 1_056) + 864 + (48 * 5 + 5),
    ),
    Row(
        "mobilenet-v3",
        EfficientNet(
            5,
            0.25,
            stages=(Stage(2.5, 48, 1, 3, True, nn.relu),),
            strides=(1, 2),
            dropout=0.0,
            activation=nn.hard_swish,
            top=6,
            hidden=8,
            hard_squeeze=True,
        ),
        (8, 8, 1),
        88 + (240 + 264 + 416 + 416) + 1_296 + (72 * 8 + 8) + (8 * 5 + 5),
    ),
    Row(
        "convnext",
        ConvNeXt(5, ((4, 1), (8, 1)), 2, kernel=3, layer_scale=0.1, drop_path=0.0),
        (8, 8, 1),
        (4 * 4 + 4 + 8)
        + (9 * 4 + 4 + 8 + 2 * 64 + 16 + 4 + 4)  # the stem, the first stage
        + (8 + 16 * 8 + 8)
        + (9 * 8 + 8 + 16 + 2 * 256 + 32 + 8 + 8)
        + 16
        + (8 * 5 + 5),
    ),
    Row("rnn", RNN(5, (8, 6), ELMAN), (6, 3), (8 * 11 + 8) + (6 * 14 + 6) + 35, ragged=True),
    Row("gru", RNN(5, (8,), GRU), (6, 3), 3 * 8 * (3 + 8 + 2) + 45, ragged=True),
    Row("lstm", RNN(5, (8,), LSTM), (6, 3), 4 * 8 * (3 + 8 + 1) + 45, ragged=True),
    Row(
        "lstm-both-ways",
        RNN(5, (8,), LSTM, bidirectional=True, vocab_size=SIZE, embedding_width=4),
        (6,),
        13 * 4 + 2 * 4 * 8 * (4 + 8 + 1) + (16 * 5 + 5),
        3e-2,
        ragged=True,
    ),
    Row(
        "lstm-language",
        RNN(SIZE, (16,), LSTM, return_sequences=True, vocab_size=SIZE, embedding_width=4),
        (6,),
        13 * 4 + 4 * 16 * (4 + 16 + 1) + (16 * 13 + 13),
        3e-2,
        next_token,
        (6, SIZE),
    ),
    Row(
        "lstm-ctc",
        RNN(
            10,
            (16,),
            LSTM,
            bidirectional=True,
            return_sequences=True,
            vocab_size=SIZE,
            embedding_width=4,
        ),
        (6,),
        13 * 4 + 2 * 4 * 16 * (4 + 16 + 1) + (32 * 10 + 10),
        3e-2,
        partial(ctc, frames=2),
        (6, 10),
        ragged=True,
    ),
    Lines(
        "crnn",
        CRNN(5, (4, 8, 8), (8,)),
        (8, 24, 1),
        (36 + 8) + (288 + 16) + (576 + 16) + 2 * 4 * 8 * (8 + 8 + 1) + (16 * 5 + 5),
        objective=ctc,
        output=(6, 5),
    ),
    Pixels(
        "unet-segment",
        UNet((8, 8), outputs=3),
        (8, 8, 1),
        UNET + (9 * 16 * 3 + 3),
        objective=segment,
        output=(8, 8, 3),
    ),
    Sounds(
        "deep-speech",
        DeepSpeech2(5, 8_000, n_mels=4, n_fft=32, hop=4, channels=(4, 8), hidden=(8,)),
        (6 * 4 * 4,),
        (36 + 8) + (288 + 16) + 2 * 3 * 8 * (8 + 8 + 2) + (16 * 5 + 5),
        objective=ctc,
        output=(6, 5),
    ),
    Bases(
        "sequence-cnn",
        SequenceCNN(5, 4, 3, ((8, 3),), ()),
        (16,),
        (3 * 4 * 4 + 4) + (3 * 4 * 8 + 8) + (8 * 5 + 5),
        3e-2,
        ragged=True,
    ),
    Sounds(
        "sound-cnn",
        SoundCNN(5, 8_000, n_mels=4, n_fft=32, hop=4, blocks=((4, 1), (8, 1)), dense=()),
        (24 * 4,),
        (36 + 8) + (288 + 16) + (48 * 5 + 5),
    ),
    Tagged(
        "lstm-crf",
        RNN(
            5,
            (8,),
            LSTM,
            bidirectional=True,
            return_sequences=True,
            vocab_size=SIZE,
            embedding_width=4,
        ),
        (6,),
        13 * 4 + 2 * 4 * 8 * (4 + 8 + 1) + (16 * 5 + 5) + (5 * 5 + 5 + 5),
        3e-2,
        crf,
        (6, 5),
        ragged=True,
    ),
    Row("vit", ViT(5, 4, ONE), (8, 12, 2), (32 * 8 + 8) + 6 * 8 + BLOCK + 16 + 45),
    Row("gpt", GPT(SIZE, ONE), (6,), 13 * 8 + BLOCK + 16, 2e-2, next_token, (6, SIZE)),
    Row(
        "gpt-grouped",
        GPT(SIZE, replace(ONE, kv_heads=1, rotary=False, pre_norm=False, remat=True)),
        (6,),
        (13 + 16) * 8 + 16 + BLOCK - (2 * 8 * 4 + 4),
        2e-2,
        next_token,
        (6, SIZE),
    ),
    Row(
        "gpt-local",
        GPT(
            SIZE,
            replace(ONE, depth=2, kv_heads=1, window=2, global_every=2, attention_cap=3.0),
            tied=False,
            logit_cap=9.0,
        ),
        (6,),
        13 * 8 + 2 * (BLOCK - (2 * 8 * 4 + 4)) + 16 + 8 * 13,
        2e-2,
        partial(next_token, chunk=2, z_loss=1e-3),
        (6, SIZE),
    ),
    Row(
        "gpt-experts",
        GPT(SIZE, replace(ONE, depth=2, attention_every=2, experts=4, mlp_width=8)),
        (6,),
        (13 * 8 + 16)
        + (3 * 8 * 8 + 4 * 8 + (8 * 16 + 16) + 8)  # the recurrent mixer
        + (4 * 8 * 8 + 3 * 8)  # attention
        + 2 * (4 * (2 * 8 * 8 + 16) + 8 * 4 + 2 * 16),
        2e-2,
        next_token,
        (6, SIZE),
    ),
    Row(
        "gpt-balanced",
        GPT(SIZE, replace(ONE, experts=3, mlp_width=8, balance_bias=True)),
        (6,),
        13 * 8 + 16 + (4 * 8 * 8 + 3 * 8) + (3 * (2 * 8 * 8 + 16) + 8 * 3 + 3 + 2 * 16),
        2e-2,
        next_token,
        (6, SIZE),
        wrap=lambda learner: replace(
            learner, optimizer=jdl.optim.balance_experts(learner.optimizer, 0.01)
        ),
    ),
    Row(
        "gpt-scan",
        GPT(SIZE, replace(ONE, depth=2, dropout=0.1, scan=True, remat=True)),
        (6,),
        13 * 8 + 2 * BLOCK + 16,
        2e-2,
        next_token,
        (6, SIZE),
    ),
    Row("bert", BERT(SIZE, ONE, outputs=5), (6,), 13 * 8 + BLOCK + 16 + 45, 2e-2, ragged=True),
    Spans(
        "bert-spans",
        BERT(SIZE, ONE, outputs=2, pool=False, token_types=2),
        (6,),
        (13 + 2) * 8 + BLOCK + 16 + (8 * 2 + 2),
        2e-2,
        partial(extractive_qa, no_answer=True),
        (6, 2),
        ragged=True,
    ),
    Row(
        "t5",
        T5(SIZE, ONE),
        (6,),
        13 * 8 + (BLOCK + 16) + (BLOCK + 16) + (8 * 8 * 4 + 3 * 8 + 16),
        2e-2,
        partial(seq2seq, eos_id=0),
        (3, SIZE),
        ragged=True,
    ),
    Row(
        "t5-copy",
        T5(SIZE, ONE, copying=True),
        (6,),
        13 * 8 + (BLOCK + 16) + (BLOCK + 16) + (8 * 8 * 4 + 3 * 8 + 16) + (8 * 8 * 2 + 8 + 9),
        1e-2,
        partial(seq2seq, eos_id=0),
        (3, SIZE),
        ragged=True,
    ),
    Row(
        "captioner",
        Captioner(SIZE, ResNet(None, ((4, 1), (8, 1))), ONE),
        (4, 4, 1),
        (36 + 8 + 304 + 304 + 592 + 48)  # the backbone
        + ((8 * 8 + 8) + 4 * 8)  # its features, and positions
        + 13 * 8
        + (BLOCK + 16)
        + (8 * 8 * 4 + 3 * 8 + 16),
        2e-2,
        partial(seq2seq, eos_id=0),
        (3, SIZE),
    ),
    Nodes("gcn", GNN(5, (8,), GCN), (6, 4), (4 * 8 + 8) + (8 * 5 + 5), 3e-2, output=(6, 5)),
    Nodes(
        "sage",
        GNN(5, (8,), SAGE, global_mean_pool=True),
        (6, 4),
        (2 * 4 * 8 + 8) + (8 * 5 + 5),
        3e-2,
    ),
    Nodes(
        "gin",
        GNN(5, (8,), GIN, global_mean_pool=True, norm=LayerNorm),
        (6, 4),
        (1 + 4 * 8 + 8 + 8 * 8 + 8) + (8 + 8) + (8 * 5 + 5),
        3e-2,
    ),
    Nodes(
        "gat",
        GNN(5, (8,), partial(GAT, heads=2)),
        (6, 4),
        (4 * 8 + 2 * 8 + 8) + (8 * 10 + 2 * 10 + 5),
        3e-2,
        output=(6, 5),
    ),
    Nodes(
        "mpnn",
        MPNN(5, 8, steps=1),
        (6, 4),
        (16 + 8 * 64 + 64)  # the edge network, without edge features
        + (4 * 8 + 8)
        + 2 * (6 * 64 + 4 * 8)  # two GRUs
        + (16 * 8 + 8 + 2 * 72)
        + (8 * 5 + 5),
        2e-2,
    ),
    Row("plain-linen", Plain(), (4, 4, 1), (16 * 16 + 16) + 2 * 16 + (16 * 5 + 5), 3e-2),
    Row(
        "plain-nnx",
        jdl.nnx(lambda rngs: PlainNNX(rngs)),
        (4, 4, 1),
        (16 * 16 + 16) + 2 * 16 + (16 * 5 + 5),
        3e-2,
    ),
    Row("pair", jdl.Model(init_pair, apply_pair), (4, 4, 1), 16 * 16 + 16 + 16 * 5 + 5, 3e-2),
    Row(
        "pair-stateful",  # not by pmap, nor elastic: parts of a batch cannot share its state
        jdl.Model(init_stateful_pair, apply_stateful_pair, stateful=True),
        (4, 4, 1),
        16 * 16 + 16 + 16 * 5 + 5,
        3e-2,
    ),
    Columns(
        "adapted",
        jdl.adapt_model(TwoInputs(), inputs=("more", "x"), outputs="logits"),
        (4, 4, 1),
        (19 * 16 + 16) + (16 * 5 + 5),
        3e-2,
    ),
]
