import pytest

from picker.scrape import parse_spec


@pytest.mark.parametrize(
    ("text", "name", "filters"),
    [
        ("vllm:num_requests_waiting", "vllm:num_requests_waiting", {}),
        (" m ", "m", {}),
        ("m{}", "m", {}),
        ("m{ }", "m", {}),
        ("m{a=b}", "m", {"a": "b"}),
        ('m {a = "b c" , d=e-f.1}', "m", {"a": "b c", "d": "e-f.1"}),
        ("m{kv_cache_block_type=tokens_per}", "m", {"kv_cache_block_type": "tokens_per"}),
    ],
)
def test_reads_names_and_labels(text: str, name: str, filters: dict[str, str]) -> None:
    assert parse_spec(text) == (name, filters)


@pytest.mark.parametrize("text", ["", "0m", "m{", "m}", "m{a}", "m{a=}", "m{=b}", "m{a=b,}", "m{a=b c}", "m{a:b=c}"])
def test_refuses_anything_else(text: str) -> None:
    with pytest.raises(ValueError, match="metric spec"):
        parse_spec(text)
