"""Active learning: which pixels, regions or images of a pool are worth a label."""

from sfumato.acquisition.annotations import Annotation, Picture
from sfumato.acquisition.answers import label_maps, read_answers, write_labeled
from sfumato.acquisition.areas import Area, polygon
from sfumato.acquisition.candidates import Candidates
from sfumato.acquisition.loop import Asked, Revealed, Rounds, run_loop
from sfumato.acquisition.pool import Choice, Query, choose, looked, numbered
from sfumato.acquisition.scores import SCORES, score_map
from sfumato.acquisition.selection import Selected, Selection, acquire, pictures_of
from sfumato.acquisition.selectors import SELECTORS, k_center, noisy, ranking, select, stratified
from sfumato.acquisition.units import UNITS, grid, superpixels, unit_numbers

__all__ = [
    "SCORES",
    "SELECTORS",
    "UNITS",
    "Annotation",
    "Area",
    "Asked",
    "Candidates",
    "Choice",
    "Picture",
    "Query",
    "Revealed",
    "Rounds",
    "Selected",
    "Selection",
    "acquire",
    "choose",
    "grid",
    "k_center",
    "label_maps",
    "looked",
    "noisy",
    "numbered",
    "pictures_of",
    "polygon",
    "ranking",
    "read_answers",
    "run_loop",
    "score_map",
    "select",
    "stratified",
    "superpixels",
    "unit_numbers",
    "write_labeled",
]
