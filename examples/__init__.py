"""Applications that use celeray. They run as tests too."""
