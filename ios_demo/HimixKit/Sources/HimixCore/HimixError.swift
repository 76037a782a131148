import Foundation

/// An expected failure. The message is for the person holding the phone: what is wrong, where, what to do.
public struct HimixError: LocalizedError, Equatable, CustomStringConvertible {
    public let message: String

    public init(_ message: String) {
        self.message = message
    }

    public var errorDescription: String? { message }
    public var description: String { message }
}

extension DecodingError {
    /// The first problem of a JSON file as `field: what is wrong`, in one line.
    var firstProblem: String {
        func field(_ path: [any CodingKey]) -> String {
            let names = path.map { $0.intValue.map(String.init) ?? $0.stringValue }
            return names.isEmpty ? "" : names.joined(separator: ".") + ": "
        }
        switch self {
        case .keyNotFound(let key, let context): return field(context.codingPath + [key]) + "missing"
        case .typeMismatch(let type, let context): return field(context.codingPath) + "not a \(type)"
        case .valueNotFound(let type, let context): return field(context.codingPath) + "null, expected a \(type)"
        case .dataCorrupted(let context):
            return context.codingPath.isEmpty ? "not valid JSON" : field(context.codingPath) + context.debugDescription
        @unknown default: return "not valid JSON"
        }
    }
}
