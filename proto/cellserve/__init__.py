"""The contract of CellServe: messages, cell descriptions, states, tensors and errors, for servers and clients."""
