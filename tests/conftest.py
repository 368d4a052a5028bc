"""Which cases only the slow suite runs, beside those marked where they stand.

Each compiles for seconds what a neighbour in the same test compiles as well: another member of a family of which the
fast suite keeps one or two. By the test, and in brackets the cases that it keeps; none keeps none.
"""

import gc

import pytest

# Tracing makes many small objects that live as long as its caches: looking through them less often takes a tenth off.
gc.set_threshold(50_000, 20, 100)

KEPT = {
    "test_paths_are_the_same_for_any_number_of_paths_and_threads": (
        *("one dimension-compiled", "one dimension-jax", "stale-compiled", "nine-compiled", "mlp-compiled"),
        "softmax sde-compiled",
    ),
    "test_paths_are_the_same_for_any_save_grid": (
        *("one dimension-compiled", "one dimension-jax", "underdamped-compiled", "nine-compiled", "mlp-compiled"),
        *("softmax sde-compiled", "coupled-compiled"),
    ),
    "test_words_are_those_of_seed_path_step_and_lane": ("one dimension", "batches", "nine", "mlp", "softmax sde"),
    "test_both_sources_have_one_law": ("nine",),
    "test_statistics_are_the_same_for_any_threads_and_resumption": ("one dimension-compiled", "mlp-compiled"),
    "test_the_speed_on_a_linear_loss_is_that_of_the_formula": (),
    "test_a_ladder_is_run_and_fitted": (),
    "test_schemes_reach_the_law_of_the_equation": ("scheme1",),
    "test_a_draw_at_its_own_step_is_the_draw": ("scalars-compiled", "lanes-compiled"),
    "test_draws_elsewhere_are_draws_as_well": ("scalars-compiled", "runs-compiled"),
    "test_a_ring_may_be_written_in_other_pieces_than_rows": ("row]",),
    "test_orders_of_the_moments_under_linear_forcing": ("queue-1",),
    "test_the_covariance_of_two_coordinates_that_share_their_delay": ("queue",),
    "test_orders_of_mean_and_variance": ("sgd-scheduled", "nesterov, iterate-scheduled"),
    "test_momentum_in_its_overdamped_clock_has_order_1": ("heavy ball, scheduled", "nesterov, iterate"),
    "test_without_a_schedule_term_order_2_is_lost": ("heavy ball-WithoutTheRatesSlope", "iterate-WithoutTheFrictions"),
    "test_the_values_of_the_rule": ("[25-", "[100-"),
    "test_the_value_of_the_sde": (),
    "test_the_exact_step_has_the_exact_law_at_any_step_size": ("optimizer0",),
    "test_weak_order_with_non_commuting_noise_in_two_dimensions": ("scheme0-1",),
    "test_modified_equations_have_their_order": ("2-skewed",),
    "test_the_stratonovich_reading_keeps_order_one_and_loses_order_two": (),
    "test_schemes_have_the_weak_order_that_they_declare": ("scheme0", "scheme3"),
    "test_at_one_it_is_the_optimiser_byte_for_byte": ("[sgd]", "[nesterov, underdamped]", "[adamw]"),
    "test_its_moments_approach_those_of_the_sde_with_order_one": ("[sgd]", "[heavy ball, underdamped]"),
    "test_a_warm_start_is_the_state_that_the_rule_reaches": ("amplified-float32",),
    "test_a_timed_queue_in_the_engine_is_that_of_the_events": ("gamma, rates", "in step, crashes"),
    "test_the_stale_chain_is_a_replay_with_its_delays": (
        *("[negative momentum-queue]", "[adam-queue]", "[sgd-geometric]", "[sgd-pmf]", "[sgd-queue, uniform, crashes]"),
        "[sgd-trace]",
    ),
    "test_every_member_has_the_moments_it_has_alone": ("brownian-3]", "words-3"),
    "test_on_words_every_member_is_the_run_it_is_alone": ("skewed",),
    "test_the_difference_is_the_exact_weak_error": ("SGD", "Nesterov"),
    "test_a_run_near_a_minimum_is_controlled_by_its_quadratic_model": ("skewed",),
    "test_the_quadratic_model_has_the_moments_that_are_used": ("skewed",),
}


def pytest_collection_modifyitems(items):
    for item in items:
        kept = KEPT.get(item.name.partition("[")[0])
        if kept is not None and not any(case in item.name for case in kept):
            item.add_marker(pytest.mark.slow)
