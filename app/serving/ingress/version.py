"""A released version with the documents of its checkpoint, as its replicas describe it."""

from dataclasses import dataclass
from typing import Self

from pydantic import ValidationError

from app.checkpoint.calibration import Calibration
from app.checkpoint.manifest import Manifest
from app.core.errors import ModelUnavailable
from app.diagnosis.decoder import PredictionDecoder
from app.features.spec import FeatureSpec
from app.schemas.equipment import Equipment
from app.schemas.places import some_of
from app.serving.ingress.traffic import Release
from app.serving.rpc.messages import VersionDescription


@dataclass(frozen=True, slots=True)
class Version:
    """A released version with the documents of its checkpoint."""

    release: Release
    manifest: Manifest
    spec: FeatureSpec
    calibration: Calibration
    description: VersionDescription

    @classmethod
    def read(cls, release: Release, description: VersionDescription) -> Self:
        """Parse the description that a release's replica sent.

        Raises:
            ModelUnavailable: the documents can't be read, or are of another version than the
                release names.
        """
        try:
            manifest = Manifest.model_validate_json(description.manifest)
            spec = FeatureSpec.model_validate_json(description.feature_spec)
            calibration = Calibration.model_validate_json(description.calibration)
        except ValidationError as error:
            raise ModelUnavailable(
                f"expected the checkpoint's documents from version {release.version}, found "
                f"{error.error_count()} errors in them: deploy the ingress and the version from "
                "the same release"
            ) from error
        if manifest.version != release.version:
            raise ModelUnavailable(
                f"expected application '{release.application}' to have version {release.version} "
                f"as its release says, found version {manifest.version}: correct the release or "
                "the application's checkpoint"
            )
        untrained = [each for each in release.designs or () if each not in manifest.designs]
        if untrained:
            raise ModelUnavailable(
                f"expected version {release.version} to be trained on {some_of(untrained)} as its "
                f"release says, found that it is trained on {some_of(manifest.designs)}: correct "
                "the `designs` of the release"
            )
        return cls(release, manifest, spec, calibration, description)

    def decoder_for(self, equipment: Equipment) -> PredictionDecoder:
        """Return the decoder of this version's predictions for the design of a machine."""
        return PredictionDecoder.of(
            self.release.version, equipment, self.manifest, self.spec, self.calibration
        )
