"""A released version as its replicas describe it: the documents of its checkpoint, read without torch.

Invariant: a version that is returned is the one that its release names.
"""

from dataclasses import dataclass

from pydantic import ValidationError

from app.checkpoint.calibration import Calibration
from app.checkpoint.manifest import Manifest
from app.core.errors import ModelUnavailable
from app.diagnosis.decoder import PredictionDecoder
from app.features.spec import FeatureSpec
from app.serving.ingress.traffic import Release
from app.serving.rpc.messages import VersionDescription


@dataclass(frozen=True, slots=True)
class Version:
    """A released version as its replicas describe it."""

    release: Release
    manifest: Manifest
    spec: FeatureSpec
    calibration: Calibration
    description: VersionDescription

    def decoder_for(self, design: str) -> PredictionDecoder:
        """Return what this version was taught about a design."""
        return PredictionDecoder.of(
            self.release.version, design, self.manifest, self.spec, self.calibration
        )


def name_of(release: Release) -> str:
    """Return what messages call a release."""
    return f"version {release.version}"


def read_version(release: Release, description: VersionDescription) -> Version:
    """Read what a release's replicas say of it.

    Raises:
        ModelUnavailable: the documents can't be read, or are of another version than the release says.
    """
    try:
        manifest = Manifest.model_validate_json(description.manifest)
        spec = FeatureSpec.model_validate_json(description.feature_spec)
        calibration = Calibration.model_validate_json(description.calibration)
    except ValidationError as error:
        raise ModelUnavailable(
            f"expected the checkpoint's documents from {name_of(release)}, found {error.error_count()} errors "
            "in them: deploy the ingress and the version from the same release"
        ) from error
    if manifest.version != release.version:
        raise ModelUnavailable(
            f"expected application '{release.application}' to hold version {release.version} as its release says, found "
            f"version {manifest.version}: correct the release or the application's checkpoint"
        )
    return Version(
        release=release,
        manifest=manifest,
        spec=spec,
        calibration=calibration,
        description=description,
    )
