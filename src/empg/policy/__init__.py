"""The policy: network, weights, tokenizer and chat format. Knows neither tasks nor rewards."""
