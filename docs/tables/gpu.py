"""Tables of a GPU; their cells stay empty until one has been measured."""

from __future__ import annotations

from statistics import median

from tables.form import measured, table


def gpu_kernels() -> str:
    """Window attention alone, forward / forward with backward, in ms; cells stay empty until measured."""
    result = gpu_results()
    labels, parts = ("eager", "sdpa", "compiled", "flex", "triton"), ("forward", "training")
    rows = []
    for row in result["kernels"]:
        times = ([row[part]["median_ms"].get(label) for part in parts] for label in labels)
        cells = (" / ".join(f"{t:.3g}" if t else "-" for t in both) for both in times)
        share = " / ".join(f"{100 * (row[part]['of_product'] or 0):.0f} %" for part in parts)
        rows.append((f"{row['name']}, {row['images']} images", *cells, share))
    rows = rows or [("", *[""] * (len(labels) + 1))]
    head = (
        "window attention, bf16 | eager | SDPA | torch.compile | FlexAttention | Triton | of a large product"
    )
    return f"{where_of_gpu(result)}\n\n{table(head, rows)}"


def gpu_products() -> str:
    """Layers and sums of diagonals, in microseconds; cells stay empty until measured."""
    result = gpu_results()
    kinds = {
        "gelu": "fc1 and GELU",
        "branch": "fc2, norm and sum",
        "mlp": "MLP, forward and backward",
        "merge": "patch merging",
        "embed": "patch embedding",
        "diagonals": "gradient of the bias table",
    }
    labels = ("by index", "eager", "compiled", "tanh", "separate", "triton")
    rows = []
    for row in result["products"]:
        times = (row["median_ms"].get(label) for label in labels)
        shares = (f"{100 * row[of]:.0f} %" if row[of] else "" for of in ("of_product", "of_copy"))
        where = f"{kinds[row['kind']]}: {row['name']}"
        rows.append((where, *(f"{1000 * t:.3g}" if t else "" for t in times), *shares))
    rows = rows or [("", *[""] * (len(labels) + 2))]
    head = (
        "what | sum by index | eager | torch.compile | cuBLAS, tanh | cuBLAS, Triton | Triton | of a large product "
        "| of a copy"
    )
    return f"{where_of_gpu(result)}\n\n{table(head, rows)}"


def gpu_training() -> str:
    """Steps of training on a GPU, images/s and peak memory; cells stay empty until measured."""
    result = gpu_results()
    labels = (
        "timm eager", "timm compiled", "swinv2 eager", "swinv2 compiled", "swinv2 compiled, bf16_all", "swinv2 graph",
        "swinv2 graph, bf16_all",
    )  # fmt: skip
    rows: list[tuple[object, ...]] = []
    for row in result["training"]:
        figures = [row[what].get(label) for what in ("images_per_second", "peak_mb") for label in labels]
        cells = (f"{figure:,.0f}" if figure else "-" for figure in figures)
        rows.append((f"`{row['model']}`", row["image_size"], row["batch"], *cells))
    rows = rows or [("", *[""] * (2 + 2 * len(labels)))]
    head = " | ".join(["model | pixels | batch", *labels, *(f"MB: {label}" for label in labels)])
    return f"{where_of_gpu(result)}\n\n{table(head, rows)}"


def gpu_kept() -> str:
    """What a step of training keeps of an image for its backward pass."""
    result = measured("gpu-kept")
    rows = []
    for row in result["models"]:
        timm, ours = row["mb_per_image"]["timm"], row["mb_per_image"]["swinv2"]
        rows.append(
            (f"`{row['model']}`", row["image_size"], f"{timm:.0f}", f"{ours:.0f}", f"{ours / timm:.2f}")
        )
    versions = ", ".join(f"{library} {result['versions'][library]}" for library in ("torch", "timm"))
    counted = table("model | pixels | timm, MB an image | swinv2 | of it", rows)
    return f"Counted with {versions}; commit {result['commit']}.\n\n{counted}"


def gpu_traffic() -> str:
    """What inference and training move and compute, and the goals beside what that allows."""
    result = measured("gpu-traffic")
    rows = []
    for row in result["rows"]:
        most, goal = row["images_per_second_at_most"], row["goal"]
        what = row["what"] if row["what"] == "inference" else f"{row['what']}, {row['precision']}"
        share = (f"{goal:,}", f"{100 * goal / most:.0f} %") if goal else ("", "")
        counts = f"{row['mb_per_image']:,.0f}", f"{row['gflop_per_image']:,.0f}"
        rows.append((f"`{row['model']}`", what, row["batch"], *counts, f"{most:,.0f}", *share))
    speeds = f"{result['copy_tb_per_s']} TB/s and {result['product_tflops']:.0f} TFLOP/s"
    counted = table("model | what | batch | MB an image | GFLOP | images/s at most | goal | of it", rows)
    return f"At {speeds}; torch {result['versions']['torch']}; commit {result['commit']}.\n\n{counted}"


def bf16_training() -> str:
    """Held-out loss and accuracy of the same runs in three precisions: medians over seeds, and the range."""
    result = measured("bf16-training")
    groups: dict[tuple[str, str], list[dict]] = {}
    for run in result["runs"]:
        groups.setdefault((run["data"], run["precision"]), []).append(run)
    rows = []
    for (data, precision), runs in groups.items():
        cells = []
        for figure, form in (("train_loss", ".3f"), ("loss", ".3f"), ("top1", ".2f")):
            found = sorted(run[figure] for run in runs)
            spread = f" ({found[0]:{form}} to {found[-1]:{form}})" if len(found) > 1 else ""
            cells.append(f"{median(found):{form}}{spread}")
        rows.append((data, precision, len(runs), runs[0]["epochs"], *cells))
    head = "data | precision | seeds | epochs | training loss | held-out loss | accuracy, %"
    commits = ", ".join(dict.fromkeys(run["commit"] for run in result["runs"]))
    return f"{result['machine']['cpu']}; commit {commits}.\n\n{table(head, rows)}"


def float8_answers() -> str:
    """What layers in float8 change: held-out pictures of a trained model, and logits of one with random weights."""
    result = measured("float8")
    rows: list[tuple[object, ...]] = []
    for row in (*result["answers"], *result["random"]):
        kept = f"{row['same_class']} of {row['pictures']}" if "same_class" in row else ""
        right = f"{100 * row['correct'] / row['pictures']:.2f} %" if "correct" in row else ""
        name = f"`{row['model']}`, random weights" if row in result["random"] else row["model"]
        rows.append((name, row["float8"], kept, right, f"{row['norm']:.2e}", f"{row['largest']:.2e}"))
    return table("model | in float8 | class of fp32 | accuracy | error of the logits | of the worst", rows)


def gpu_results() -> dict:
    return measured("gpu", {part: [] for part in ("kernels", "products", "inference", "training")})


def where_of_gpu(result: dict) -> str:
    if "machine" not in result:
        return "Not measured yet."
    m, versions = result["machine"], ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    ceilings = "a large product reaches {product_tflops:.0f} TFLOP/s, a copy {copy_tb_per_s:.1f} TB/s"
    limits = ceilings.format(**result["ceilings"])
    return (
        f"{m['device']}, CUDA {m['cuda']}; {versions}; {limits}; commit {result['commit']}, {result['date']}."
    )
