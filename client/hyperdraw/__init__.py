"""The client of hyperdraw, a service that samples neural networks on demand.

    with hyperdraw.Client("http://127.0.0.1:8000") as client:
        answer = client.predict("seven.png", seed=7)

The client needs neither PyTorch nor the service's packages.
"""

from hyperdraw.answers import (
    Classification,
    Download,
    Flag,
    ModelDescription,
    ModelIdentity,
    ModelList,
    ModelSummary,
    Prediction,
    Regression,
    Reload,
    RequestLimits,
    Sample,
    Uncertainty,
)
from hyperdraw.certificates import Certificate, Certification
from hyperdraw.client import AsyncClient, Client
from hyperdraw.drawings import Drawing, DrawingImages, Drawings, DrawingScore, ScoredPoints
from hyperdraw.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    HyperdrawError,
    InvalidAnswer,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServiceError,
    Unauthorized,
)
from hyperdraw.feedback import Feedback, LabelledCoverage, LabelledShare, Labelling, LabelRefusal
from hyperdraw.monitoring import DriftAlarm, FlagMonitor, FlagShare, Monitor, PredictedClass, StreamPart
from hyperdraw.text_streams import AsyncTextStream, TextStream
from hyperdraw.texts import Foreign, Passage, Score, Symbol
from hyperdraw.versions import Comparison, Traffic, Version

__all__ = [
    "AsyncClient",
    "AsyncTextStream",
    "Certificate",
    "Certification",
    "Classification",
    "Client",
    "Comparison",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Download",
    "Drawing",
    "DrawingImages",
    "DrawingScore",
    "Drawings",
    "DriftAlarm",
    "Feedback",
    "Flag",
    "FlagMonitor",
    "FlagShare",
    "Foreign",
    "HyperdrawError",
    "InvalidAnswer",
    "InvalidRequest",
    "LabelRefusal",
    "LabelledCoverage",
    "LabelledShare",
    "Labelling",
    "ModelDescription",
    "ModelIdentity",
    "ModelList",
    "ModelSummary",
    "Monitor",
    "NotFound",
    "Overloaded",
    "Passage",
    "PredictedClass",
    "Prediction",
    "Regression",
    "Reload",
    "RequestLimits",
    "Sample",
    "Score",
    "ScoredPoints",
    "ServiceError",
    "StreamPart",
    "Symbol",
    "TextStream",
    "Traffic",
    "Unauthorized",
    "Uncertainty",
    "Version",
]
