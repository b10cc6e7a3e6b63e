"""The Cinder backup driver."""
