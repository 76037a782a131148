import Foundation

/// An opened bundle: one folder per (model, target, precision), every file of it checked.
public struct ModelBundle: Sendable {
    public let folder: URL
    public let manifest: Manifest

    /// Read and check a bundle: its manifest, and the size and SHA-256 of every file.
    ///
    /// - Parameter progress: called with the share that is checked (0...1), for large bundles.
    /// - Throws: `HimixError` naming the file that is missing or not what the manifest says.
    public init(verifying folder: URL, progress: (Double) -> Void = { _ in }) throws {
        let manifest = try Manifest.read(folder)
        let all = manifest.allFiles
        for record in all { try Self.checkSize(record, in: folder) }  // cheap, so it comes first
        var checked = 0
        for record in all {
            try Self.checkHash(record, in: folder)
            checked += record.bytes
            progress(Double(checked) / Double(max(manifest.totalBytes, 1)))
        }
        (self.folder, self.manifest) = (folder, manifest)
    }

    /// Where a file of the bundle lies.
    public func url(_ path: String) -> URL { folder.appendingPathComponent(path) }

    /// The main file of a role (its first). A Core ML package is the folder that it lies in.
    public func roleURL(_ role: String) -> URL { url((manifest.roles[role] ?? [])[0].path) }

    /// SHA-256 of manifest.json, and so of the whole bundle.
    public func digest() throws -> String { try sha256(fileAt: url(Manifest.fileName)) }

    /// Tokenizer and chat template.
    public func loadText() throws -> TextProcessor {
        let tokenizer = try Tokenizer(contentsOf: url(Tokenizer.fileName), rows: manifest.model.vocabSize)
        return try TextProcessor(tokenizer: tokenizer, template: manifest.chatTemplate)
    }

    private static func checkSize(_ record: FileRecord, in folder: URL) throws {
        let url = folder.appendingPathComponent(record.path)
        let plain = folder.resolvingSymlinksInPath().appendingPathComponent(record.path)
        guard url.resolvingSymlinksInPath().path == plain.path else {
            throw HimixError("\(record.path): a link that leaves the bundle; refused")
        }
        guard let size = fileSize(url) else {
            throw HimixError("\(record.path): missing; the bundle is incomplete, export or copy it again")
        }
        guard size == record.bytes else {
            throw HimixError(
                "\(record.path): \(size) bytes, the manifest says \(record.bytes); export or copy the bundle again")
        }
    }

    private static func checkHash(_ record: FileRecord, in folder: URL) throws {
        let found: String
        do {
            found = try sha256(fileAt: folder.appendingPathComponent(record.path))
        } catch {
            throw HimixError("\(record.path): cannot be read (\(error.localizedDescription))")
        }
        guard found == record.sha256 else {
            throw HimixError(
                "\(record.path): content does not match its SHA-256 in the manifest; export or copy the bundle again")
        }
    }
}

/// Bytes of a regular file behind `url`; nil if there is none.
func fileSize(_ url: URL) -> Int? {
    let attributes = try? FileManager.default.attributesOfItem(atPath: url.resolvingSymlinksInPath().path)
    guard attributes?[.type] as? FileAttributeType == .typeRegular else { return nil }
    return (attributes?[.size] as? NSNumber)?.intValue
}
