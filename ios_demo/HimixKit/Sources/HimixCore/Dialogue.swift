import Foundation

/// A picture that is asked about: what tells it from others, and how its pixels are had.
public struct Picture: Sendable {
    public let id: UUID
    public let load: @Sendable () throws -> any PixelSource

    public init(id: UUID = UUID(), load: @escaping @Sendable () throws -> any PixelSource) {
        (self.id, self.load) = (id, load)
    }
}

/// Questions about one picture after another, each by itself or continuing the conversation. Keys and values are kept
/// with the picture that they were made from: no other picture's question can be answered from them.
@Inference
public final class Dialogue {
    private let session: Session
    private var picture: UUID?
    private var chat: Chat?

    public init(_ session: Session) { self.session = session }

    /// Whether the next question about `picture` needs no vision stage.
    public func isKept(_ picture: UUID?) -> Bool {
        picture != nil && picture == self.picture && chat?.imageKV != nil
    }

    /// Ask about `picture`, or about none.
    ///
    /// - Parameter continuing: the question follows the ones before it, if they were about the same picture.
    /// - Throws: as `Session.generate`.
    public func ask(
        _ prompt: String, about picture: Picture?, continuing: Bool, options: AnswerOptions = AnswerOptions()
    ) throws -> Answer {
        let isSame = chat != nil && picture?.id == self.picture
        if !(isSame && continuing) {
            let kept = isSame ? chat?.imageKV : nil
            let images = picture.map { [kept.map(ImageInput.encoded) ?? .pixels($0.load)] } ?? []
            (chat, self.picture) = (session.chat(images: images), picture?.id)
        }
        guard let chat else { throw HimixError("no conversation") }
        return try chat.send(prompt, options: options)
    }
}
