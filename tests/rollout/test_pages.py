"""Metrics pages: picker's and the reference picker's, several pools in one, and whatever else may come."""

import pytest

from picker.rollout.counting import Counting, Source
from picker.rollout.figures import NOTHING, Figures
from picker.rollout.pages import PageError, Side, knows_pools, read_page
from tests.support.fuzz import CASES, mutants

PAGE = """\
# HELP inference_objective_request_total Requests that have ended, well or badly.
# TYPE inference_objective_request_total counter
inference_objective_request_total{model_name="review",priority="0",target_model_name="review-v1"} 900.0
inference_objective_request_total{model_name="review",priority="0",target_model_name="review-v2"} 100.0
inference_objective_request_total{model_name="base",priority="0",target_model_name="base"} 50.0
# TYPE inference_objective_request_error_total counter
inference_objective_request_error_total{error_code="ModelServerError",model_name="review",target_model_name="review-v2"} 5.0
inference_objective_request_error_total{error_code="NoAnswer",model_name="review",target_model_name="review-v2"} 1.0
inference_objective_request_error_total{error_code="ResourceExhausted",model_name="review",target_model_name="review-v2"} 3.0
inference_objective_request_error_total{error_code="Canceled",model_name="review",target_model_name="review-v2"} 2.0
inference_objective_request_error_total{error_code="BadRequest",model_name="base",target_model_name="base"} 9.0
# TYPE inference_objective_request_ttft_seconds histogram
inference_objective_request_ttft_seconds_bucket{le="0.1",model_name="review",target_model_name="review-v2"} 10.0
inference_objective_request_ttft_seconds_bucket{le="0.2",model_name="review",target_model_name="review-v2"} 70.0
inference_objective_request_ttft_seconds_bucket{le="+Inf",model_name="review",target_model_name="review-v2"} 94.0
inference_objective_request_ttft_seconds_bucket{le="0.1",model_name="base",target_model_name="base"} 50.0
inference_objective_request_ttft_seconds_bucket{le="0.2",model_name="base",target_model_name="base"} 50.0
inference_objective_request_ttft_seconds_bucket{le="+Inf",model_name="base",target_model_name="base"} 50.0
inference_objective_request_ttft_seconds_count{model_name="base",target_model_name="base"} 50.0
inference_objective_request_ttft_seconds_sum{model_name="base",target_model_name="base"} 1.0
"""  # noqa: E501
ANY = Side()


def test_everything_on_a_page_is_summed() -> None:
    assert read_page(PAGE, ANY) == Figures(
        requests=1050,
        errors=6,
        shed=3,
        canceled=2,
        ttft_bounds_s=(0.1, 0.2),
        ttft_counts=(60.0, 60.0, 24.0),
    )


def test_a_side_is_told_by_its_model_and_target() -> None:
    found = read_page(PAGE, Side(pool="default/a", model="review", target="review-v2"))
    assert (found.requests, found.errors, found.ttft_counts) == (100, 6, (10.0, 60.0, 24.0))
    assert read_page(PAGE, Side(model="base")).errors == 0  # what the client did wrong is no error of a side
    assert read_page(PAGE, Side(model="another")) == NOTHING


def test_pools_of_one_page_are_told_apart() -> None:
    page = "".join(
        line.replace("{", f'{{pool="default/{pool}",', 1) + "\n"
        for pool in "ab"
        for line in PAGE.splitlines()
        if not line.startswith("#")
    )
    assert knows_pools(page)
    assert not knows_pools(PAGE)
    assert read_page(page, Side(pool="default/a")) == read_page(PAGE, ANY)
    assert read_page(page, ANY).requests == 2100
    assert read_page(page, Side(pool="default/c")) == NOTHING


def test_a_picker_of_several_pools_is_known_before_it_has_counted() -> None:
    page = 'picker_endpoints_age_seconds{pool="default/a"} 0.5\npicker_endpoints_age_seconds{pool="default/b"} 0.5\n'
    assert knows_pools(page)
    assert not knows_pools(page + 'inference_objective_request_total{model_name="base"} 1\n')
    assert not knows_pools('picker_endpoints_age_seconds 0.5\ninference_pool_ready_pods{pool="default/a"} 1\n')


def test_a_page_of_llm_ds_names_is_read_too_and_not_twice() -> None:
    page = PAGE.replace("inference_objective_request", "llm_d_epp_request")
    assert read_page(page, ANY) == read_page(PAGE, ANY) == read_page(PAGE + page, ANY)


def test_a_picker_that_has_served_nothing_yet_shows_zeros() -> None:
    assert read_page("# HELP inference_pool_ready_pods Endpoints.\ninference_pool_ready_pods 3\n", ANY) == NOTHING


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<html>\n",
        "process_cpu_seconds_total 5\n",
        'inference_objective_request_total{model_name="a} 1\n',
        "inference_objective_request_total -5\n",
        "inference_objective_request_total NaN\n",
        "inference_objective_request_total many\n",
        'inference_objective_request_total 5\ninference_objective_request_ttft_seconds_bucket{le="x"} 1\n',
        'inference_objective_request_total 5\ninference_objective_request_ttft_seconds_bucket{le="-1"} 1\n',
        'inference_objective_request_total 5\ninference_objective_request_ttft_seconds_bucket{le="1"} 5\n'
        'inference_objective_request_ttft_seconds_bucket{le="+Inf"} 4\n',
    ],
)
def test_what_is_no_page_of_a_picker_is_refused(page: str) -> None:
    with pytest.raises(PageError):
        read_page(page, ANY)


def test_a_line_too_many_or_too_few_never_does_harm() -> None:
    """Figures, whose counts are checked, or PageError; nothing else."""
    tokens = [
        b"\n",
        b'"',
        b"{",
        b"}",
        b",",
        b"=",
        b'le="',
        b"NaN",
        b"+Inf",
        b"-1",
        b"1e309",
        b" ",
        b"\\",
        b"#",
        b"\xff",
    ]
    usable = 0
    for _, data in mutants([PAGE.encode()], tokens, seed=5, cases=CASES // 20):
        try:
            read_page(data.decode(errors="replace"), Side(model="review"))
            usable += 1
        except PageError:
            continue
    assert usable > 0


# --- counting ---


def test_the_first_look_at_a_process_is_no_growth() -> None:
    counting = Counting()
    assert counting.look({Source("a"): Figures(requests=100)}) == NOTHING
    assert counting.totals == Figures(requests=100)
    assert counting.look({Source("a"): Figures(requests=130)}).requests == 30


def test_a_process_that_comes_later_adds_what_it_counts_from_then_on() -> None:
    counting = Counting()
    counting.look({Source("a"): Figures(requests=100)})
    both = {Source("a"): Figures(requests=110), Source("b"): Figures(requests=1000)}
    assert counting.look(both).requests == 10
    assert counting.look(both | {Source("b"): Figures(requests=1007)}).requests == 7


def test_a_process_that_is_away_for_a_while_is_not_counted_twice() -> None:
    counting = Counting()
    counting.look({Source("a"): Figures(requests=100)})
    assert counting.look({}) == NOTHING
    assert counting.look({Source("a"): Figures(requests=130)}).requests == 30


@pytest.mark.parametrize("source", [Source("a", "1"), Source("a", "2")])
def test_a_process_that_was_started_anew_counts_from_zero(source: Source) -> None:
    counting = Counting()
    counting.look({Source("a", "1"): Figures(requests=100)})
    assert counting.look({source: Figures(requests=8)}).requests == 8
