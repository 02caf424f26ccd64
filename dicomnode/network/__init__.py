"""The network: who may call, what is answered, and sending. It decodes no dataset that arrives."""
