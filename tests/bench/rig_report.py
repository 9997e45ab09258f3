"""Tables of the simulated rig, for the benchmark's summary and the page of simulated machines."""

from tests.bench.comparison_report import Found, markdown_table


def rig_tables(section: Found) -> list[str]:
    """Return the parts of the simulated rig: Theil's coefficients, and scores on real cycles."""
    theil = [
        [row["sensor"], *(f"{row[name]:.4f}" for name in ("unused", "unstable")),
         f"{row['shape']:.2f}"]
        for row in section["theil"]
    ]  # fmt: skip
    components = list(dict.fromkeys(row["component"] for row in section["rows"]))
    models = list(dict.fromkeys(row["model"] for row in section["rows"]))
    found = {(row["model"], row["component"]): row for row in section["rows"]}

    def scores(name: str, decimals: int) -> str:
        rows = [
            [model, *(f"{found[model, part][name]:.{decimals}f}" for part in components)]
            for model in models
            if name in found[model, components[0]]
        ]
        return markdown_table(["model", *components], rows)

    return [
        "## The simulated rig",
        (
            f"Theil's inequality coefficient, calibrated on {section['used']} stable healthy "
            f"cycles: of {section['unused']} others, of {section['unstable']} unstable ones, and "
            "of the first after the mean of each series is taken off.\n\n"
            + markdown_table(["sensor", "kept out", "unstable", "without the mean"], theil)
        ),
        (
            f"Macro-F1 on {section['scored']:,} real cycles, mean of {section['folds']} folds by "
            f"configuration. Simulated faults: {section['cycles']:,} cycles of "
            f"{section['machines']} machines.\n\n" + scores("macro_f1", 3)
        ),
        "Share within one grade.\n\n" + scores("within_one", 3),
        "Rank correlation with the grades.\n\n" + scores("rank", 2),
    ]
