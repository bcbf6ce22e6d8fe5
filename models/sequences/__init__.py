"""Networks for sequences: LSTM and HyperLSTM (Ha, Dai & Le, "HyperNetworks", ICLR 2017, sections 3.2 and 4)."""
