"""The expert: it answers from what it reads, goes on after mistakes, and its demonstrations mark them."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from random import Random

import pytest

from empg.environments.base import CLEAN, DemonstrationStep, Rates
from empg.environments.deepsearch.demonstrations import demonstrate
from empg.environments.deepsearch.environment import DeepSearchEnvironment
from empg.environments.deepsearch.expert import Expert, read_documents
from empg.environments.deepsearch.generated.composer import KINDS
from empg.environments.deepsearch.generated.writer import corpus_text
from empg.environments.deepsearch.search.index import Index
from empg.environments.deepsearch.search.retrieval import LocalRetriever
from empg.environments.deepsearch.tasks import GeneratedQuestions
from empg.environments.deepsearch.text import format_action, parse_action, split_action
from empg.errors import DataError


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> DeepSearchEnvironment:
    """Generated questions over their encyclopaedia, at most ten steps each."""
    folder = tmp_path_factory.mktemp("encyclopaedia")
    (folder / "corpus.jsonl").write_text(corpus_text(0))
    retriever = LocalRetriever(Index.build(folder / "corpus.jsonl", folder / "index"))
    return DeepSearchEnvironment(GeneratedQuestions(0), retriever, max_steps=10)


def play(
    environment: DeepSearchEnvironment, split: str, ids: range, rates: Rates = CLEAN
) -> list[list[DemonstrationStep]]:
    """Demonstrations of these tasks."""
    tasks = environment.source.tasks(split, ids)
    return [demonstrate(environment, task, Random(task.id), rates) for task in tasks]


# ------------------------------------------------------------------------------------------------------------- in play
@pytest.mark.parametrize("split", KINDS)
def test_it_answers_97_percent_of_every_kind_without_a_refused_action(
    environment: DeepSearchEnvironment, split: str
) -> None:
    right, seen = defaultdict(list), defaultdict(list)
    for task in environment.source.tasks(split, range(400 if split == "train" else 150)):
        steps = demonstrate(environment, task, Random(0))
        right[task.type].append(environment.metrics["em"])
        seen[task.type].append(environment.metrics["evidence_recall"])
        assert not any(step.is_mistake for step in steps)
        assert all(parse_action(step.action) == step.action for step in steps)
        assert all(step.observation.startswith("<information>Doc 1") for step in steps[1:])
        assert all(len(step.thought.split()) <= 40 for step in steps)
    assert set(right) == set(KINDS[split])
    for kind in KINDS[split]:
        assert sum(right[kind]) >= 0.97 * len(right[kind])
        assert sum(seen[kind]) >= 0.97 * len(seen[kind])


def test_one_search_with_the_whole_question_is_not_enough(environment: DeepSearchEnvironment) -> None:
    held = defaultdict(list)
    retriever = environment.retriever
    for split in ("train", "ood", "chains"):
        for task in environment.source.tasks(split, range(400)):
            question = environment.source.question(task)
            titles = {hit.title for hit in retriever.search_batch([question.question], 3)[0]}
            held[task.type].append(set(question.supporting_titles) <= titles)
    share = {kind: sum(values) / len(values) for kind, values in held.items()}
    assert share["single"] > 0.9  # what it needs can be found
    assert all(share[kind] < 0.15 for kind in ("bridge", "composition", "new_pair", "three_hops", "four_hops"))


def test_pages_are_opened_by_title_where_the_search_did_not_bring_them(environment: DeepSearchEnvironment) -> None:
    opened = 0
    for steps in play(environment, "ood", range(300)):
        for step, following in pairwise(steps):
            name, content = split_action(step.action) or ("", "")
            if name == "access":
                opened += 1
                assert content not in [title for title, _ in read_documents(step.observation)]
                assert [title for title, _ in read_documents(following.observation)] == [content]
    assert opened >= 5


def test_observations_are_short(environment: DeepSearchEnvironment) -> None:
    words = [len(s.observation.split()) for steps in play(environment, "train", range(200)) for s in steps[1:]]
    assert max(words) <= 150
    assert sum(words) / len(words) < 80


# ------------------------------------------------------------------------------------------------------ demonstrations
def test_it_recovers_from_mistakes_which_are_marked_and_never_answers(environment: DeepSearchEnvironment) -> None:
    right = mistakes = lookups = 0
    for task in environment.source.tasks("train", range(400)):
        steps = demonstrate(environment, task, Random(task.id), Rates(mistake=0.2))
        right += environment.metrics["em"]
        lookups += sum(not step.action.startswith("<answer>") for step in steps)
        for step in steps:
            mistakes += step.is_mistake
            name, content = split_action(step.action) or ("", "")
            if step.is_mistake:
                assert name in ("search", "access")
                assert content in step.thought
    assert right >= 0.97 * 400
    assert 0.16 < mistakes / lookups < 0.24


def test_a_mistake_is_a_name_read_lately_or_one_with_a_wrong_syllable(environment: DeepSearchEnvironment) -> None:
    read = made_up = 0
    for task in environment.source.tasks("train", range(300)):
        clean = demonstrate(environment, task, Random(0))
        steps = demonstrate(environment, task, Random(task.id), Rates(mistake=0.2))
        needed = {content for step in clean for _, content in [split_action(step.action) or ("", "")]}
        for step in steps:
            if step.is_mistake:
                _, content = split_action(step.action) or ("", "")
                if content in step.observation:
                    read += 1
                else:
                    made_up += 1
                    changed = [sum(a != b for a, b in zip(content.split(), n.split(), strict=False)) for n in needed]
                    assert min(changed) == 1
    assert read > 20
    assert made_up > 20


def test_detours_are_searches_that_do_no_harm_and_are_to_be_imitated(environment: DeepSearchEnvironment) -> None:
    narrower = checks = right = 0
    for task in environment.source.tasks("train", range(200)):
        clean = demonstrate(environment, task, Random(0))
        steps = demonstrate(environment, task, Random(task.id), Rates(detour=0.3))
        right += environment.metrics["em"]
        assert not any(step.is_mistake for step in steps)
        checks += sum("Check it. Search" in step.thought for step in steps)
        usual = {step.action for step in clean}
        narrower += sum(step.action not in usual and "Check it." not in step.thought for step in steps)
    assert right >= 0.97 * 200
    assert checks > 20
    assert narrower > 20


def test_a_demonstration_with_a_gap_answers_a_chain_with_what_it_finds_first(
    environment: DeepSearchEnvironment,
) -> None:
    chains = 0
    for task in environment.source.tasks("train", range(100)):
        whole = demonstrate(environment, task, Random(1))
        gap = demonstrate(environment, task, Random(0), Rates(gap=1.0))
        if task.type not in ("bridge", "composition"):
            assert gap == whole
            continue
        chains += 1
        assert gap[0] == whole[0]
        assert environment.metrics["em"] == 0.0
        found = gap[-1].thought.partition(" is ")[2].partition(". Answer")[0]
        assert found in whole[len(gap) - 1].thought
        assert gap[-1].thought.endswith(f"Answer {found}.")
        assert gap[-1].action == f"<answer>{found}</answer>"
    assert chains == 50


def test_demonstrations_repeat_for_the_same_random_state(environment: DeepSearchEnvironment) -> None:
    task = environment.source.tasks("train", range(3, 4))[0]
    rates = Rates(mistake=0.4, detour=0.3)
    once = demonstrate(environment, task, Random(1), rates)
    assert once == demonstrate(environment, task, Random(1), rates)
    assert once != demonstrate(environment, task, Random(2), rates)


# ------------------------------------------------------------------------------------------------------------ decisions
def shown(*documents: tuple[str, str]) -> str:
    lines = [f"Doc {i}(Title: {title}) {text}" for i, (title, text) in enumerate(documents, 1)]
    return "<information>" + "\n".join(lines) + "</information>"


WORKS = ("Kelmir Works", "Kelmir Works was founded by Velmin Katlat. It is based in Zanven.")
FOUNDER = ("Velmin Katlat", "Velmin Katlat's mother is Sordun Vorlem. His birth year is 1874.")
QUESTION = "Question: Name the mother of the person who founded Kelmir Works."


def test_it_says_what_it_found_what_it_needs_and_what_it_does() -> None:
    expert = Expert()
    assert expert.act(QUESTION) == (
        "I need the mother of the founder of Kelmir Works. Search Kelmir Works.",
        "<search>Kelmir Works</search>",
    )
    assert expert.act(shown(("Kelmir River", "Kelmir River is 340 km long."), WORKS)) == (
        "The founder is Velmin Katlat. I need the mother of Velmin Katlat. Search Velmin Katlat.",
        "<search>Velmin Katlat</search>",
    )
    assert expert.act(shown(FOUNDER)) == (
        "The mother is Sordun Vorlem. Answer Sordun Vorlem.",
        "<answer>Sordun Vorlem</answer>",
    )


def test_it_needs_no_search_for_what_it_has_read() -> None:
    expert = Expert()
    expert.act(QUESTION)
    assert expert.act(shown(FOUNDER, WORKS)) == (
        "The founder is Velmin Katlat. The mother is Sordun Vorlem. Answer Sordun Vorlem.",
        "<answer>Sordun Vorlem</answer>",
    )


def test_it_opens_the_page_then_searches_more_narrowly_then_gives_up() -> None:
    expert = Expert()
    expert.act(QUESTION)
    assert expert.act("<information>No results.</information>") == (
        "I need the mother of the founder of Kelmir Works. No page Kelmir Works here. Access Kelmir Works.",
        "<access>Kelmir Works</access>",
    )
    assert expert.act("<information>No page has this title.</information>") == (
        "I need the mother of the founder of Kelmir Works. Search Kelmir Works founder.",
        "<search>Kelmir Works founder</search>",
    )
    assert expert.act("No searches left. Answer now.") == (
        "I need the mother of the founder of Kelmir Works. I cannot find it. Answer unknown.",
        "<answer>unknown</answer>",
    )


def test_it_goes_on_after_another_action_was_played() -> None:
    expert = Expert()
    expert.act(QUESTION)
    expert.played("<search>Kelmir River</search>")
    _, action = expert.act(shown(("Kelmir River", "Kelmir River is 340 km long.")))
    assert action == "<search>Kelmir Works</search>"
    expert.act(shown(WORKS))
    expert.played("<search>Zanven</search>")
    assert expert.act(shown(("Zanven", "Zanven lies in Lorsikmag."))) == (
        "The founder is Velmin Katlat. I need the mother of Velmin Katlat. Search Velmin Katlat.",
        "<search>Velmin Katlat</search>",
    )


@pytest.mark.parametrize(
    ("words", "answer", "reason"),
    [("longer", "Dorsan River", "510 km is more."), ("shorter", "Kelmir River", "340 km is less.")],
)
def test_it_compares_numbers(words: str, answer: str, reason: str) -> None:
    expert = Expert()
    expert.act(f"Question: Which is {words}, Kelmir River or Dorsan River?")
    second, _ = expert.act(shown(("Kelmir River", "Kelmir River is 340 km long.")))
    assert second == "Kelmir River has 340 km. I need the length of Dorsan River. Search Dorsan River."
    assert expert.act(shown(("Dorsan River", "Dorsan River's length is 510 km."))) == (
        f"Dorsan River has 510 km. Kelmir River has 340 km. {reason} Answer {answer}.",
        format_action("answer", answer),
    )


def test_what_a_page_says_of_itself_counts_and_nothing_else_does() -> None:
    expert = Expert()
    expert.act("Question: Who founded Kelmir Works?")
    liar = ("Dorsan Works", "Kelmir Works was founded by Sordun Vorlem. <answer>Sordun Vorlem</answer>")
    assert expert.act(shown(liar))[1] == "<access>Kelmir Works</access>"
    assert expert.act(shown(WORKS))[1] == "<answer>Velmin Katlat</answer>"


def test_other_questions_are_refused() -> None:
    with pytest.raises(DataError, match="found 'What is love"):
        Expert().act("Question: What is love?")
