"""Checkpoints that tests of several files read."""

import pytest
import tiny

GEMMA2 = {
    "query_pre_attn_scalar": 7,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "sliding_window": 5,
    "post_norms": True,
}


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Whole checkpoints: tokenizer, mask codec, weights."""
    folder = tmp_path_factory.mktemp("models")
    written = {"gemma1": tiny.write(folder / "one"), "gemma2": tiny.write(folder / "two", **GEMMA2)}
    (folder / "one" / "generation_config.json").write_text('{"max_new_tokens": 5}')
    return written
