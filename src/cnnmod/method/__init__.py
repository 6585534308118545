"""The paper's method; needs torch and safetensors only."""
