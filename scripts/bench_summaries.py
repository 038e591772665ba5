"""Baselines of `stdlib_summaries`: a function's signature, its name, the nearest one's summary.

scripts/bench summaries: ROUGE of the test functions whose summaries the experiment is judged by.
"""

import platform

from sklearn.feature_extraction.text import TfidfVectorizer

from jdl.data.stdlib_summaries import LONGEST_SUMMARY, split_functions, stdlib_summaries, words
from jdl.metrics import rouge

train, _, test = split_functions()
tokenizer = stdlib_summaries()[0].tokenizer
test = [one for one in test if len(tokenizer.encode(one.summary)) < LONGEST_SUMMARY]
print(f"Python {platform.python_version()}: {len(train):,} functions, {len(test):,} to judge by")
heads = [words(one.source.splitlines()[0]) for one in test]
tfidf = TfidfVectorizer(sublinear_tf=True)
known = tfidf.fit_transform(words(one.source) for one in train)
nearest = (tfidf.transform(words(one.source) for one in test) @ known.T).argmax(1).A1
methods = {
    "lead: the line of its signature": heads,
    "its name": [words(one.source.split("(")[0].split("def ")[1]) for one in test],
    "summary of the nearest training function": [train[n].summary for n in nearest],
}
for name, texts in methods.items():
    scores = rouge(texts, [one.summary for one in test])
    print(f"{name:<42} " + ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))
