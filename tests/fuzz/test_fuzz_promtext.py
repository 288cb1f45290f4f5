"""Mutated metrics pages: never a crash, always what the model says."""

from picker._core.promtext import PromSpec
from tests.model import promtext as model
from tests.support.fuzz import mutants

WANTS: list[model.Want] = [
    ("vllm:num_requests_running", {}, "sum", ()),
    ("vllm:num_requests_waiting", {"engine": "1"}, "max", ("engine", "model_name")),
    ("vllm:num_requests_waiting", {}, "sum", ()),
    ("vllm:lora_requests_info", {}, "newest", ("max_lora", "running_lora_adapters")),
    ("m", {}, "sum", ("a",)),
]
CORPUS = [
    b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 6.0
vllm:num_requests_running{engine="1",model_name="tiny"} 1.5e+02 1700000000
vllm:num_requests_waiting{engine="0",model_name="ti\\"ny"} 0.0
vllm:num_requests_waiting{engine="1",model_name="ti\\\\ny"} 3.0
""",
    b"""vllm:lora_requests_info{max_lora="2",running_lora_adapters="",waiting_lora_adapters=""} 1.7952940975766084e+09\r
vllm:lora_requests_info{max_lora="2",running_lora_adapters="a,b",waiting_lora_adapters="c"} 1.7952940985956545e+09\r
m NaN
m{} +Inf
m{a="x",} -1 5
""",
]
TOKENS = [b"\n", b"\r\n", b"{", b"}", b'"', b"\\", b'\\"', b",", b"=", b" ", b"m ", b'{a="', b"1e", b"-", b"#", b"nan"]


def test_mutated_pages_read_as_the_model_reads_them() -> None:
    spec = PromSpec(WANTS)
    for case, page in mutants(CORPUS, TOKENS):
        found, malformed = model.scan(WANTS, page)
        assert (repr(spec.scan(page)), spec.malformed) == (repr(found), malformed), f"case {case}: {page!r}"
