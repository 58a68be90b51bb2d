"""The target service: verifies token trees and says what comes next."""
