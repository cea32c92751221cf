"""The filter's and the label's middleware: what they do with questions and with answers."""

from pathlib import Path
from typing import Any

import pytest

from vqa import Answer, Job, QuestionRefused
from vqa.answer import Alternative, Timings, TokenLogprob, Usage
from vqa.ledger.records import Header, Lease
from workers.filter.lists import Lists
from workers.filter.settings import FilterSettings
from workers.jobs import middleware
from workers.jobs.answer_filter import AnswerFilter
from workers.jobs.label import Label

ACTIONS = "masked=mask,flagged=flag,refused=refuse"
JOB = Job(messages=[{"role": "user", "content": "Is it bad?"}])


@pytest.fixture
def lists(tmp_path: Path) -> Lists:
    (tmp_path / "words").write_text("bad\tmasked\nbrand\tflagged\nworst\trefused\n")
    return Lists(FilterSettings(filter_lists=str(tmp_path / "words"), filter_actions=ACTIONS))


def ask(
    policy: Any,
    text: str,
    reasoning: str | None = None,
    job: Job = JOB,
    stream: bool = False,
    parsed: Any = None,
    **more: Any,
) -> Answer:
    """Run an attempt that is answered with `text`."""
    usage, timings = Usage(prompt_tokens=5, completion_tokens=1), Timings(queued_s=0, media_s=0, engine_s=1, total_s=1)

    def answer(job: Job, lease: Lease) -> Answer:
        about = {"usage": usage, "timings": timings, "model": "m", "worker": "w", "attempt": 1}
        return Answer(id="a", text=text, reasoning=reasoning, parsed=parsed, finish_reason="stop", **about, **more)

    header = Header("leased", "bulk", 0, 0, 1, 0, stream=stream)
    outcome = middleware.run([policy], job, Lease("a", "token", header, b"", 0), answer)
    assert isinstance(outcome, Answer)
    return outcome


def test_answers_are_masked_flagged_and_refused(lists: Lists) -> None:
    policy = AnswerFilter(lists, questions=False)
    clean, masked = ask(policy, "fine", "so be it"), ask(policy, "a bad brand", "a bad thought")
    refused, seen = ask(policy, "a bad brand, the worst", "thought"), ask(policy, "a bad, worst", stream=True)
    assert (clean.text, clean.reasoning, clean.filtered, clean.finish_reason) == ("fine", "so be it", (), "stop")
    assert (masked.text, masked.reasoning) == ("a ███ brand", "a ███ thought")
    assert (masked.filtered, masked.finish_reason) == (("flagged", "masked"), "stop")
    assert (refused.text, refused.reasoning, refused.finish_reason) == ("", None, "content_filter")
    assert refused.filtered == ("flagged", "masked", "refused")
    assert refused.usage.completion_tokens == 1
    # its client has read some of it
    assert (seen.text, seen.finish_reason) == ("a ███, ", "content_filter")
    assert policy.figures() == {"filtered": {"masked": 3, "flagged": 2, "refused": 2}}


def test_each_of_several_answers_is_filtered(lists: Lists) -> None:
    logprobs = (TokenLogprob(token="x", logprob=-1.0, bytes=(120,)),)
    others = [Alternative(text=each, finish_reason="stop", logprobs=logprobs) for each in ("fine", "bad", "the worst")]
    answer = ask(AnswerFilter(lists, questions=False), "fine", alternatives=tuple(others), stream=True)
    assert (answer.text, answer.filtered) == ("fine", ("masked", "refused"))
    assert [(each.text, each.finish_reason) for each in answer.alternatives] == [
        ("fine", "stop"),
        ("███", "stop"),
        ("", "content_filter"),
    ]
    # the tokens' texts would tell the words
    assert [each.logprobs is None for each in answer.alternatives] == [False, True, True]


def token(text: str, *others: str) -> TokenLogprob:
    """A token of an answer, and the likeliest ones at its place."""
    made, *top = (TokenLogprob(token=each, logprob=-1.0, bytes=tuple(each.encode())) for each in (text, text, *others))
    return made.model_copy(update={"top_logprobs": tuple(top)})


def test_the_likeliest_tokens_do_not_tell_words_that_are_not_shown(lists: Lists) -> None:
    logprobs = (token("fine", "bad", "brand", " worst"), token(".", "!"))
    other = Alternative(text="fine.", finish_reason="stop", logprobs=logprobs)
    answer = ask(AnswerFilter(lists, questions=False), "fine.", logprobs=logprobs, alternatives=(other,))
    for made in (answer.logprobs, answer.alternatives[0].logprobs):
        assert made is not None
        assert [[top.token for top in each.top_logprobs] for each in made] == [["fine", "brand"], [".", "!"]]
    assert (answer.text, answer.filtered) == ("fine.", ())


def test_a_token_that_a_stop_string_cut_does_not_tell_the_word_that_it_ends(lists: Lists) -> None:
    job = Job(messages=JOB.messages, stop=["d"], max_new_tokens=8, logprobs=True)
    cut = ask(AnswerFilter(lists, questions=False), "a ba", job=job, logprobs=(token("a"), token(" b"), token("ad")))
    fine = ask(AnswerFilter(lists, questions=False), "a ba", job=job, logprobs=(token("a"), token(" b"), token("and")))
    assert (cut.text, cut.logprobs) == ("a ba", None)
    assert fine.logprobs is not None


def test_the_probabilities_do_not_tell_a_choice_that_is_refused(lists: Lists) -> None:
    job = Job(messages=JOB.messages, response_format={"type": "choice", "choices": ["bad", "fine"]})
    policy = AnswerFilter(lists, questions=False)
    refused = ask(policy, "bad", job=job, parsed="bad", choices={"bad": 0.9, "fine": 0.1})
    fine = ask(policy, "fine", job=job, parsed="fine", choices={"bad": 0.1, "fine": 0.9})
    assert (refused.text, refused.choices, refused.finish_reason) == ("", None, "content_filter")
    assert fine.choices == {"bad": 0.1, "fine": 0.9}


def test_each_of_several_answers_ends_with_the_notice() -> None:
    others = (Alternative(text="blue", finish_reason="stop"), Alternative(text="", finish_reason="content_filter"))
    answer = ask(Label("Made by a machine."), "red", alternatives=others)
    assert [each.text for each in answer.alternatives] == ["blue\n\nMade by a machine.", ""]


def test_a_thought_that_is_refused_is_left_out(lists: Lists) -> None:
    answer = ask(AnswerFilter(lists, questions=False), "fine", "the worst thought")
    assert (answer.text, answer.reasoning, answer.filtered) == ("fine", None, ("refused",))
    assert answer.finish_reason == "stop"


def test_structured_answers_are_parsed_again(lists: Lists) -> None:
    policy = AnswerFilter(lists, questions=False)
    job = Job(messages=JOB.messages, response_format={"type": "json_object"})
    answer = ask(policy, '{"x": "bad"}', job=job, parsed={"x": "bad"}, stream=True)
    assert (answer.text, answer.parsed) == ('{"x": "███"}', {"x": "███"})
    refused = ask(policy, '{"bad": 1}', job=job, parsed={"bad": 1}, stream=True)
    assert (refused.text, refused.parsed, refused.finish_reason) == ("", None, "content_filter")


@pytest.mark.parametrize(
    ("question", "category"),
    [pytest.param("Is it BAD?", "masked", id="masked"), pytest.param("w o r s t", "refused", id="refused")],
)
def test_a_question_with_words_that_would_not_be_shown_is_refused(lists: Lists, question: str, category: str) -> None:
    policy = AnswerFilter(lists, questions=True)
    job = Job(messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}])
    with pytest.raises(QuestionRefused, match=f"that is not answered: {category}$") as caught:
        ask(policy, "fine", job=job)
    assert caught.value.code() == "content_filter"
    assert policy.figures() == {"filtered": {category: 1}}


def test_texts_of_a_question_are_one_unless_an_image_is_between_them(lists: Lists) -> None:
    first, last = {"type": "text", "text": "ba"}, {"type": "text", "text": "d"}
    image = {"type": "image", "image": b"pixels"}
    policy = AnswerFilter(lists, questions=True)
    with pytest.raises(QuestionRefused):
        ask(policy, "fine", job=Job(messages=[{"role": "user", "content": [first, last]}]))
    assert ask(policy, "fine", job=Job(messages=[{"role": "user", "content": [first, image, last]}])).filtered == ()


def test_a_question_is_flagged_in_its_answer(lists: Lists) -> None:
    job = Job(messages=[{"role": "user", "content": "Which brand?"}])
    assert ask(AnswerFilter(lists, questions=True), "fine", job=job).filtered == ("flagged",)
    assert ask(AnswerFilter(lists, questions=False), "fine", job=job).filtered == ()


def test_without_lists_nothing_changes() -> None:
    policy = AnswerFilter(None, questions=False)
    assert ask(policy, "bad").text == "bad"
    assert (policy.shown(JOB), policy.figures()) == (None, {})


def test_a_label_ends_texts_and_leaves_structured_answers_valid() -> None:
    policy = Label("Made by a machine.")
    labelled = ask(policy, "red")
    assert (labelled.text, labelled.label) == ("red\n\nMade by a machine.", "Made by a machine.")
    choice = Job(messages=JOB.messages, response_format={"type": "choice", "choices": ["red"]})
    assert (ask(policy, "red", job=choice).text, ask(policy, "red", job=choice).label) == ("red", policy.text)
    assert ask(policy, "").text == ""
    assert (ask(Label(None), "red").text, ask(Label(None), "red").label) == ("red", None)
