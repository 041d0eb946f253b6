"""No public name appears, vanishes or goes undocumented by accident."""

import inspect

import sfumato

PUBLIC = [  # as ruff sorts: constants, to which it counts SWAG, then classes, then functions
    "L1",
    "SWAG",
    "BatchEnsemble",
    "Categorical",
    "ClassPrediction",
    "ClassScores",
    "ConditionalVAE",
    "DeepEnsemble",
    "Deterministic",
    "Dirichlet",
    "DistilledClasses",
    "DistilledValues",
    "FeatureDensity",
    "FidelityScores",
    "Gaussian",
    "Heads",
    "InstanceScores",
    "Instances",
    "Joint",
    "JointPrediction",
    "Laplace",
    "LastLayerLaplace",
    "LatentDraws",
    "LogitNormal",
    "MCDropout",
    "MultiHead",
    "NormalInverseGamma",
    "OODScores",
    "Output",
    "PanopticScores",
    "PredictionInterval",
    "PredictionSet",
    "SWAGState",
    "SetScores",
    "Tempered",
    "TestTimeAugmentation",
    "ValuePrediction",
    "ValueScores",
    "VariancePropagation",
    "Variational",
    "__version__",
    "cyclic_rate",
    "dropout_rates",
    "find_instances",
    "inject_concrete_dropout",
    "inject_dropout",
    "kl_divergence",
    "make_batch_ensemble",
    "make_multi_head",
    "make_variational",
    "predict",
    "predict_streamed",
    "predict_tiled",
    "read_window",
    "refresh_batch_norm",
    "weighting",
]


def test_public_names():
    assert sfumato.__all__ == PUBLIC


def test_every_public_name_says_what_it_is():
    for name in PUBLIC:
        thing = getattr(sfumato, name)
        if not isinstance(thing, str):
            assert inspect.getdoc(thing), f"{name} has no docstring"
