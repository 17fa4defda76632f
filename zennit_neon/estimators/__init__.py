"""From estimators, Pipelines and labels to heads."""
