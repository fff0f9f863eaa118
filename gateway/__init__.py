"""prefixgate: a gateway that sends each LLM request where its prefix is cached and the first token comes soonest."""

__version__ = "0.1.0"
