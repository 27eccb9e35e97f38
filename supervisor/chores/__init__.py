"""The words of ``bashd`` that move and save the history: ``export``, ``import``, ``backup``, ``restore``."""
