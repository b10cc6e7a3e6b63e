"""The daemon's verbs over oslo.messaging, for OpenStack's services."""
