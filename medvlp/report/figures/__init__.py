"""Figures as inline SVG that follow the page's colours in light and dark."""
