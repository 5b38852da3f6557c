"""An analysis for people: terminal, HTML, CSV."""
