"""What answers predictions: loaded models, what runs them, and what may be believed of an answer."""
