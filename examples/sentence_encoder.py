"""Clusters of sentences that your own transformer encoder embeds, explained word by word.

The sentences are those of scikit-learn's documentation. A small encoder learns which module each is from, k-means
clusters its embeddings, and the evidence of the clusters goes back to the words in two ways: through the encoder as a
linear function, and by Captum's integrated gradients. Leaving out the words of the largest relevance tells how good
each of them is.

Run: python examples/sentence_encoder.py [FOLDER], which writes FOLDER/sentence_encoder.html (default: docs/images).
"""

import importlib
import inspect
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import zennit_neon as neon
from zennit_neon.text.token_explanation import TokenMean, explain_tokens

MODULES = ["cluster", "decomposition", "ensemble", "linear_model", "metrics", "preprocessing"]


class Encoder(nn.Module):
    """From ids (N, T), without padding, to the mean of what a transformer makes of their vectors."""

    def __init__(self, n_words, width=32):
        super().__init__()
        self.embedding = nn.Embedding(n_words + 1, width, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.2, activation="gelu", batch_first=True)
        self.pool = TokenMean()

    def forward(self, ids):
        return self.pool(self.layer(self.embedding(ids)))


def sentences():
    """Sentences of 8 to 30 words from the documentation of a few modules, and the number of the module of each."""
    found = {}
    for number, name in enumerate(MODULES):
        module = importlib.import_module(f"sklearn.{name}")
        for thing in module.__all__:
            text = inspect.cleandoc(getattr(module, thing).__doc__ or "").split("Examples\n")[0]
            for sentence in re.split(r"\n\s*\n|(?<=[.:])\s+", text):
                sentence = re.sub(r"[`*]+|:\w+:|\s+", " ", sentence).strip()
                if 8 <= len(words(sentence)) <= 30 and sentence.endswith("."):
                    found.setdefault(sentence, number)
    return list(found), torch.tensor(list(found.values()))


def words(text):
    """Spans of the words of a text."""
    return [match.span() for match in re.finditer(r"[A-Za-z]{2,}", text)]


def vocabulary(texts, least=4):
    """Ids of the words that occur a few times, from 1 on; 0 is padding."""
    count = Counter(text[a:b].lower() for text in texts for a, b in words(text))
    return {word: i for i, word in enumerate(sorted(w for w, n in count.items() if n >= least), 1)}


def read(texts, ids):
    """Padded ids (N, T) of the words of texts that have one, and their spans."""
    spans = [[(a, b) for a, b in words(text) if text[a:b].lower() in ids] for text in texts]
    rows = [
        torch.tensor([ids[text[a:b].lower()] for a, b in own], dtype=torch.long)
        for text, own in zip(texts, spans, strict=True)
    ]
    return pad_sequence(rows, batch_first=True), spans


def by_length(ids):
    """Places of sentences with as many words each, so that nothing has to be padded."""
    lengths = (ids != 0).sum(1)
    return [(lengths == n).nonzero()[:, 0] for n in lengths.unique()]


def embed(encoder, ids):
    """Embeddings (N, d) of sentences."""
    documents = torch.empty(len(ids), encoder.embedding.embedding_dim)
    with torch.no_grad():
        for rows in by_length(ids):
            documents[rows] = encoder(ids[rows][:, : int((ids[rows[0]] != 0).sum())])
    return documents


def train(ids, labels, epochs=8):
    """An encoder, trained with a linear layer on top that is thrown away."""
    torch.manual_seed(0)
    encoder = Encoder(int(ids.max()))
    model = nn.Sequential(encoder, nn.Linear(32, len(MODULES)))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        batches = [part for rows in by_length(ids) for part in rows[torch.randperm(len(rows))].split(32)]
        for i in torch.randperm(len(batches)):
            rows = batches[i]
            part = ids[rows][:, : int((ids[rows[0]] != 0).sum())]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(part), labels[rows]).backward()
            optimizer.step()
    return encoder.eval()


def remaining(model, ids, e, order, n=3):
    """Share of the evidence that is left without the ``n`` words of each sentence that come first in an order."""
    kept = e.mask.copy()
    for row, score, known in zip(kept, order, e.mask, strict=True):
        row[np.argsort(np.where(known, -score, np.inf))[:n]] = False
    left = explain_tokens(model, ids, embedding="0.embedding", mask=torch.tensor(kept), cluster=e.cluster)
    return left.evidence.sum() / e.evidence.sum()


def main(folder="docs/images"):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts, labels = sentences()
    ids, spans = read(texts, vocabulary(texts))
    encoder = train(ids, labels)
    kmeans = KMeans(len(MODULES), n_init=10, random_state=0).fit(embed(encoder, ids))
    model = nn.Sequential(encoder, neon.neuralize(kmeans))

    chosen = np.random.default_rng(0).permutation(len(texts))[:200]
    some, options = ids[chosen], {"embedding": "0.embedding"}
    options |= {"texts": [texts[i] for i in chosen], "spans": [spans[i] for i in chosen]}
    linear = explain_tokens(model, some, **options)
    average = encoder.embedding(ids[ids != 0]).mean(0)  # a word that tells nothing
    gradients = explain_tokens(model, some, method="integrated gradients", baseline=average, n_steps=32, **options)

    print(f"{len(texts)} sentences, {encoder.embedding.num_embeddings - 1} words")
    for c in range(len(MODULES)):
        modules = Counter(MODULES[i] for i in labels[torch.from_numpy(kmeans.labels_ == c)].tolist())
        best = Counter()
        for i in np.flatnonzero(linear.cluster == c):
            best.update({word.lower(): score for word, score in linear[i].top(30)})
        name, count = modules.most_common(1)[0]
        print(f"cluster {c} ({count / modules.total():.0%} {name}): {', '.join(w for w, _ in best.most_common(8))}")
    noise = np.random.default_rng(0).random(linear.relevance.shape)
    for name, order in [
        ("linear", linear.relevance),
        ("integrated gradients", gradients.relevance),
        ("random", noise),
    ]:
        print(f"{remaining(model, some, linear, order):7.1%} of the evidence without 3 words by {name}")

    path = folder / "sentence_encoder.html"
    linear.to_html(path, documents=range(40), title="Sentences of scikit-learn's documentation")
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
