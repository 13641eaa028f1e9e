"""The audit: for a range of event time, by event id, what each system holds against what it must hold."""

from operations.audit.auditor import Audit, Options, audit
from operations.audit.problem import CouldNotLook
from operations.audit.report import Finding, Report, Sums

__all__ = ["Audit", "CouldNotLook", "Finding", "Options", "Report", "Sums", "audit"]
