"""Vectors of items out of a data set's knowledge graph, for ``dataset.vectors``.

python -m benchmark.data.graph_vectors movielens-100k data/movielens-100k-graph.parquet
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import TypeAdapter, ValidationError
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer

from benchmark.data.schema import ITEM_ID, Dataset
from benchmark.data.sources import Source
from benchmark.errors import InputError


def graph_vectors(dataset: Dataset, size: int = 64, seed: int = 0) -> pl.DataFrame:
    """Return ``item_id`` and ``vector`` of the items that the graph says anything of.

    An item is what its entity is related to, (relation, direction, entity), weighted by TF-IDF and brought to ``size``
    numbers by a truncated SVD (latent semantic analysis; Deerwester et al., JASIS 1990). No interaction is read. What
    is true of one item alone is left out: it relates no two.

    Raises:
        InputError: there is no graph, or it says too little for so many numbers.
    """
    if dataset.graph is None or dataset.links is None:
        raise InputError(f"dataset {dataset.name} has no knowledge graph to make vectors of")
    graph = dataset.graph
    said = pl.concat(
        graph.select(entity_id=one, said=pl.concat_str("relation", pl.lit(arrow), other, separator=" "))
        for one, arrow, other in (("head", "to", "tail"), ("tail", "from", "head"))
    ).unique()
    items = dataset.items.select(ITEM_ID)
    links = dataset.links.join(items, on=ITEM_ID)
    pairs = links.join(said, on="entity_id").select(ITEM_ID, "said").unique()
    pairs = pairs.filter(pl.len().over("said") > 1).sort(ITEM_ID, "said")
    names, facts = pairs[ITEM_ID].unique(maintain_order=True), pairs["said"].unique().sort()
    if min(len(names), len(facts)) <= size:
        raise InputError(
            f"dataset {dataset.name}: {len(facts):,} facts of {len(names):,} items are too few for {size} numbers "
            "an item"
        )
    cells = (
        pairs[name].to_frame().join(ids.to_frame().with_row_index("id"), on=name, how="left", maintain_order="left")
        for name, ids in ((ITEM_ID, names), ("said", facts))
    )
    row, column = (frame["id"].to_numpy() for frame in cells)
    shape = len(names), len(facts)
    weighted = TfidfTransformer().fit_transform(csr_matrix((np.ones(len(row)), (row, column)), shape=shape))
    vectors = TruncatedSVD(size, random_state=seed).fit_transform(weighted).astype(np.float32)
    return pl.DataFrame({ITEM_ID: names, "vector": pl.Series(vectors, dtype=pl.Array(pl.Float32, size))})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmark.data.graph_vectors", description=__doc__)
    parser.add_argument("source", help="a source with a knowledge graph, such as movielens-100k")
    parser.add_argument("out", type=Path, help="the .parquet file to write")
    parser.add_argument("--size", type=int, default=64, help="numbers an item")
    given = parser.parse_args(arguments)
    try:
        try:
            source = TypeAdapter[Source](Source).validate_python({"source": given.source})
        except ValidationError as error:
            raise InputError(f"source '{given.source}': {error.errors()[0]['msg']}") from None
        frame = graph_vectors(source.load(), given.size)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(given.out)
    except (InputError, OSError) as error:
        sys.exit(str(error))
    print(f"{given.out}: {frame.height:,} items, {given.size} numbers each")


if __name__ == "__main__":
    main()
