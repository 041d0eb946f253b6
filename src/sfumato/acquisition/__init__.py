"""Active learning: which pixels, regions or images of a pool are worth a label."""

from sfumato.acquisition.candidates import Candidates
from sfumato.acquisition.loop import Asked, Revealed, Rounds, run_loop
from sfumato.acquisition.pool import Query, choose, looked, numbered
from sfumato.acquisition.scores import SCORES, score_map
from sfumato.acquisition.selectors import SELECTORS, k_center, noisy, ranking, select, stratified
from sfumato.acquisition.units import UNITS, grid, superpixels, unit_numbers

__all__ = [
    "SCORES",
    "SELECTORS",
    "UNITS",
    "Asked",
    "Candidates",
    "Query",
    "Revealed",
    "Rounds",
    "choose",
    "grid",
    "k_center",
    "looked",
    "noisy",
    "numbered",
    "ranking",
    "run_loop",
    "score_map",
    "select",
    "stratified",
    "superpixels",
    "unit_numbers",
]
