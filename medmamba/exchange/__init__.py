"""What other software trained or reads: files of weights, and models of nnU-Net's kind."""
