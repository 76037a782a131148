import Foundation

/// An expected failure. The message is for the person holding the phone: what is wrong, where, what to do.
public struct HimixError: LocalizedError, Equatable, CustomStringConvertible {
    public let message: String

    /// Files choose parts of a message: what would break the line, turn its direction or fill the screen goes.
    public init(_ message: String) {
        var line = String.UnicodeScalarView()
        for scalar in message.unicodeScalars.prefix(Self.longest) {
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator: line.append("\u{fffd}")
            default: line.append(scalar)
            }
        }
        self.message = String(line) + (message.unicodeScalars.count > Self.longest ? "..." : "")
    }

    private static let longest = 600

    public var errorDescription: String? { message }
    public var description: String { message }
}

extension DecodingError {
    /// A field's name as it is in the file.
    private func snakeCase(_ name: String) -> String {
        name.reduce(into: "") { $0 += $1.isUppercase ? "_\($1.lowercased())" : String($1) }
    }

    /// The first problem of a JSON file as `field: what is wrong`, in one line.
    var firstProblem: String {
        func field(_ path: [any CodingKey]) -> String {
            let names = path.map { $0.intValue.map(String.init) ?? snakeCase($0.stringValue) }
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
