"""Single-device models that know nothing of training; see `tokeniser`, `processor` and `dynamics`."""
