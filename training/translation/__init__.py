"""Translation of sentences by an encoder and a decoder of LSTM or HyperLSTM cells."""
