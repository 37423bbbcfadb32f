import json

from kdeploy.measurement import read


def test_verbs_chain_from_artefact_to_verified_bundle(kdeploy, teacher, project):
    pruned = kdeploy(
        "compress", "prune_channels", teacher, "--ratio", 0.25, "--recover", "{epochs: 1}",
        "--out", project / "p", "--json",
    )  # fmt: skip
    assert pruned.code == 0, pruned.err
    manifest = json.loads(pruned.out)
    small = project / "p" / "artifacts" / manifest["id"]
    assert [s["label"] for s in manifest["lineage"]] == ["teacher", "prune_channels"]

    assert "prune_channels" in kdeploy("show", small).out
    int8 = kdeploy(
        "compress", "int8_ptq", small, "--calibration-batches", 2, "--out", project / "q", "--json"
    )
    assert int8.code == 0, int8.err
    quantized = project / "q" / "artifacts" / json.loads(int8.out)["id"]

    exported = [
        json.loads(kdeploy("export", "onnx", artifact, "--out", project / out, "--json").out)
        for artifact, out in ((teacher, "x"), (quantized, "x"))
    ]
    assert [(project / "x" / "exports" / f"{n}.onnx").is_file() for n in ("teacher", "int8_ptq")]

    files = [project / "x" / "artifacts" / e["id"] for e in exported]
    flags = [
        "--runtime",
        "onnxruntime_cpu",
        "--threads",
        1,
        "--seconds",
        0.05,
        "--out",
        project / "b",
    ]
    bench = kdeploy(
        "bench", files[1], "--baseline", files[0], "--gate", "size: 1.01x", *flags, "--json"
    )
    assert bench.code == 0, bench.err
    found = json.loads(bench.out)
    assert {c["label"] for c in found["comparisons"]} == {"int8_ptq"}
    assert {"ratio", "low", "high", "verdict"} <= set(found["comparisons"][0])
    assert len(read(project / "b")) == len(found["measurements"])

    failed = kdeploy("bench", files[1], "--gate", "size: <= 1B", *flags)
    assert failed.code == 1
    assert "FAIL" in failed.out

    assert "kdeploy bench" in (project / "b" / "report.html").read_text()
    report = kdeploy("report", project / "b", "--format", "markdown")
    assert "int8_ptq" in report.out
    assert kdeploy("report", project / "b", "--out", project / "r.html").code == 0

    bundle = project / "bundle.zip"
    packaged = kdeploy("package", files[1], "--budget", "peak_memory: <= 1GB", "--out", bundle)
    assert packaged.code == 0, packaged.err
    assert kdeploy("verify", bundle).code == 0
    unfit = kdeploy("package", files[1], "--budget", "size: <= 1B", "--out", project / "no.zip")
    assert unfit.code == 1
    assert not (project / "no.zip").exists()
