"""A graph at several combinations of its sizes, so that what holds for all of them is found."""

from dirprune.deploy.graph.graph import Graph

_PARTS = (0.0, 0.37, 1.0)
_LONGEST = 1024


def variants(graph: Graph) -> tuple[Graph, ...]:
    """The graph at some combinations of its sizes, which have the same nodes.

    Args:
        graph: Any graph.

    Returns:
        First the combination that the graph states; then the smallest sizes, the ones after them,
        and larger ones up to 1024. The graph alone if only the batch varies.
    """
    dynamic = graph.dynamic
    if dynamic is None:
        return (graph,)
    second = tuple(r.sizes[min(1, len(r.sizes) - 1)] for r in dynamic.ranges)
    every = [dynamic.stated(graph), second, *dynamic.between(_PARTS, _LONGEST)]
    return tuple(dynamic.at(graph, sizes) for sizes in dict.fromkeys(every))
