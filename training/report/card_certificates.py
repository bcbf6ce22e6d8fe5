"""The section of a model card on certificates."""

from training.evaluation.certification import CertificationReport, list_radii


def describe_certificates(report: CertificationReport) -> str:
    """The section: certified accuracy at several radii."""
    radii = max((list_radii(own) for own in report.certifications), key=len)
    rows = "\n".join(
        f"| {own.sigma:g} | {own.samples:,} | {own.networks} | {own.alpha:g} | {own.precision} | {len(own.radii):,} "
        f"| {own.average_radius:.3f} | {own.abstained:.1%} | "
        + " | ".join(f"{own.measure_accuracy(radius):.1%}" for radius in radii)
        + " |"
        for own in report.certifications
    )
    return f"""## Certificates

`hyperdraw-train certify DIR` certified the first test images by randomised smoothing: no change of an image whose L2 norm is
below the radius makes another class the most probable one, for fresh networks and fresh Gaussian noise of deviation σ. Each
sample draws noise and networks of its own. A certificate is wrong with a probability of at most α. Radii are in units of the
pixels' range. The columns on the right have the share of images whose label is certified within a radius.

| σ | samples | networks each | α | precision | images | average certified radius | undecided | {" | ".join(f"{radius:g}" for radius in radii)} |
|{" --- |" * (8 + len(radii))}
{rows}"""
