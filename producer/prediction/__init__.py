"""When a batch ends, as far as the last minutes tell; `producer.prediction.words` says it."""

from producer.prediction.prediction import Prediction, Unknown
from producer.prediction.predictions import predict

__all__ = ["Prediction", "Unknown", "predict"]
