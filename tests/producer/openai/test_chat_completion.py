"""Log probabilities in a chat completion, as OpenAI's client and the gateway's document read it."""

from openai.types.chat import ChatCompletion as OpenAIsCompletion

from producer.gateway.chat.completion_schema import ChatCompletion
from producer.openai.chat_completion import chat_completion
from tests.producer.conftest import answer
from vqa.answer import Alternative, TokenLogprob, TopLogprob

E_ACUTE = TokenLogprob(
    token="\ufffd",
    logprob=-0.25,
    bytes=(0xC3,),
    top_logprobs=(
        TopLogprob(token="\ufffd", logprob=-0.25, bytes=(0xC3,)),
        TopLogprob(token="e", logprob=-2, bytes=(101,)),
    ),
)
REST = TokenLogprob(token="\ufffd", logprob=-1.0, bytes=(0xA9,))


def test_log_probabilities_are_where_openai_has_them() -> None:
    other = Alternative(text="e", finish_reason="length", logprobs=(REST,))
    told = answer("a", "é").model_copy(update={"logprobs": (E_ACUTE, REST), "alternatives": (other,)})

    made = chat_completion(told)

    ChatCompletion.model_validate(made, extra="forbid")
    first, second = OpenAIsCompletion.model_validate(made).choices
    assert first.logprobs is not None
    assert first.logprobs.content is not None
    assert bytes(byte for token in first.logprobs.content for byte in token.bytes or ()).decode() == "é"
    assert [(each.token, each.logprob) for each in first.logprobs.content[0].top_logprobs] == [
        ("\ufffd", -0.25),
        ("e", -2),
    ]
    assert second.logprobs is not None
    assert second.logprobs.content is not None
    assert [each.logprob for each in second.logprobs.content] == [-1.0]


def test_a_completion_without_them_has_no_such_field() -> None:
    assert "logprobs" not in chat_completion(answer("a", "é"))["choices"][0]
