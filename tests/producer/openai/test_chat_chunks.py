from openai.types.chat import ChatCompletionChunk

from producer import Timings, Usage
from producer.openai.chat_chunks import ChatChunks
from vqa.answer import Answer

ANSWER = Answer(
    id="chatcmpl_1",
    text="red",
    finish_reason="stop",
    usage=Usage(prompt_tokens=3, completion_tokens=2),
    timings=Timings(queued_s=0.1, media_s=0.1, engine_s=0.1, total_s=0.3),
    parsed="red",
    reasoning="It looks red.",
    model="tiny",
    worker="card0@here",
    attempt=2,
)


def test_chunks_are_openais() -> None:
    chunks = ChatChunks("chatcmpl_1", "asked-for", include_usage=True)
    made = [chunks.role(), chunks.text("re"), chunks.text("d"), chunks.finish(ANSWER), chunks.usage(ANSWER)]
    read = [ChatCompletionChunk.model_validate(chunk, strict=True) for chunk in made]
    assert [chunk.choices[0].delta.content for chunk in read[:-1]] == ["", "re", "d", None]
    assert read[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in read[:-1]] == [None, None, None, "stop"]
    assert [chunk.usage for chunk in read[:-1]] == [None] * 4
    assert read[-1].choices == []
    assert read[-1].usage is not None
    assert read[-1].usage.total_tokens == 5
    assert {chunk.id for chunk in read} == {"chatcmpl_1"}
    assert len({chunk.created for chunk in read}) == 1


def test_the_last_chunk_names_the_model_that_answered_and_what_openai_has_no_place_for() -> None:
    last = ChatChunks("chatcmpl_1", "asked-for").finish(ANSWER)
    assert last["model"] == "tiny"
    assert last["vqa"]["worker"] == "card0@here"
    assert last["vqa"]["parsed"] == "red"
    assert last["vqa"]["reasoning"] == "It looks red."
    assert "usage" not in last


def test_a_restart_is_a_chunk_without_choices() -> None:
    chunk = ChatChunks("chatcmpl_1", "m").restarted(2)
    assert ChatCompletionChunk.model_validate(chunk).choices == []
    assert chunk["vqa"] == {"restarted": {"attempt": 2}}
