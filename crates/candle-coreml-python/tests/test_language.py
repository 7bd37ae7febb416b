"""Text generation with the small model of the repository, which knows sums."""

import pytest

import candle_coreml as ct


def test_chat_answers(language):
    assert "82" in language.chat("What is 37 + 45?")
    assert "82" in language.chat([{"role": "user", "content": "What is 37 + 45?"}])


def test_streams_are_the_text_in_pieces(language):
    messages = [{"role": "user", "content": "What is 37 + 45?"}]
    stream = language.stream(messages)
    assert stream.summary is None
    pieces = list(stream)
    summary = stream.summary
    assert len(pieces) > 1 and "".join(pieces) == summary.text == language.chat(messages)
    assert summary.stop_reason == "end_of_text" and summary.tokens == language.tokenize(summary.text)
    assert list(stream) == [], "it is at its end"


def test_texts_are_continued(language):
    text = language.generate("2 + 2 =", max_tokens=8)
    assert "".join(language.stream("2 + 2 =", max_tokens=8)) == text
    stream = language.stream("2 + 2 =", max_tokens=3)
    list(stream)
    assert stream.summary.stop_reason in ("max_tokens", "end_of_text") and len(stream.summary.tokens) <= 3


def test_sampling_follows_the_seed(language):
    options = dict(max_tokens=12, temperature=50.0)
    one = language.generate("What is", seed=1, **options)
    assert one and one == language.generate("What is", seed=1, **options)
    assert any(one != language.generate("What is", seed=s, **options) for s in range(2, 8))
    # The most likely token alone is the greedy choice.
    assert language.generate("What is", seed=1, top_k=1, **options) == language.generate("What is", max_tokens=12)


def test_stop_texts_end_the_answer(language):
    answer = language.chat("What is 37 + 45?")
    at = answer.index("82")
    stream = language.stream([{"role": "user", "content": "What is 37 + 45?"}], stop=["82"])
    assert "".join(stream) == answer[:at] and stream.summary.stop_reason == "stop_text"


def test_closed_streams_stop_and_leave_the_model_usable(language):
    def is_cancelled():
        stream = language.stream("What is", max_tokens=100000, temperature=50.0)
        next(stream)
        stream.close()
        list(stream)
        return stream.summary.stop_reason == "cancelled"

    # Some end by chance before they are closed.
    assert any(is_cancelled() for _ in range(50))
    # Dropped in the middle.
    for _ in language.stream("What is", max_tokens=100000, temperature=50.0):
        break
    assert "82" in language.chat("What is 37 + 45?")


def test_tokens_and_templates(language):
    ids = language.tokenize("What is 37 + 45?")
    assert ids and language.detokenize(ids) == "What is 37 + 45?"
    assert "What is 37 + 45?" in language.chat_text("What is 37 + 45?")
    assert language.context_length > 16 and language.engine == "portable"
    language.reset()


@pytest.mark.parametrize(
    "wrong",
    [3, [3], [{"role": "user"}], [{"role": "user", "content": 3}], [{"role": "user", "content": "a", "name": "b"}]],
    ids=str,
)
def test_other_messages_are_refused(language, wrong):
    with pytest.raises(ct.InputError):
        language.chat(wrong)


def test_prompts_that_do_not_fit_are_errors(language):
    with pytest.raises(ct.PromptError) as raised:
        language.generate("word " * 5000)
    assert raised.value.kind == "prompt-too-long"
    with pytest.raises(ct.CoreMLError) as raised:
        ct.LanguageModel("models/none")
    assert "none" in str(raised.value)
