import Foundation
import HimixCore
import HimixCoreML
import Observation

/// What the screens show: the opened bundle, the image with its keys and values, and the running question.
@MainActor
@Observable
final class AppModel {
    enum Phase {
        case empty
        case opening(Double)
        case ready(OpenedModel)
    }

    private(set) var phase = Phase.empty
    private(set) var photo: Photo?
    private(set) var answer = ""
    private(set) var stats: Stats?
    private(set) var busy = false
    private(set) var keptImage = false
    var problem: String?

    @ObservationIgnored private var kept: ImageKV?
    @ObservationIgnored private var running: Task<Void, Never>?

    var hasProblem: Bool {
        get { problem != nil }
        set { if !newValue { problem = nil } }
    }

    var opened: OpenedModel? {
        if case .ready(let opened) = phase { return opened }
        return nil
    }

    /// The bundle picked last, or else the one that the app came with.
    func openShipped() async {
        guard case .empty = phase, let folder = BundleStore.picked ?? BundleStore.shipped else { return }
        await open(folder)
    }

    /// A bundle folder picked in Files: copied into the app, checked, opened. A bad one leaves the old one in place.
    func openPicked(_ folder: URL) async {
        let before = phase
        phase = .opening(0)
        do {
            let copy = try await BundleStore.keep(folder)
            await open(copy)
        } catch {
            phase = before
            problem = error.localizedDescription
        }
    }

    func show(_ photo: Photo) {
        stop()
        (self.photo, kept, keptImage, answer, stats) = (photo, nil, false, "", nil)
    }

    func ask(_ prompt: String) {
        guard let opened, !busy else { return }
        (busy, answer, stats) = (true, "", nil)
        running = Task {
            await stream(prompt, opened.session)
            busy = false
        }
    }

    func stop() {
        running?.cancel()
    }

    private func open(_ folder: URL) async {
        phase = .opening(0)
        do {
            let opened = try await OpenedModel.open(folder) { share in
                Task { @MainActor in self.showProgress(share) }
            }
            phase = .ready(opened)
            (kept, keptImage) = (nil, false)  // another model's, now
        } catch {
            phase = .empty
            problem = error.localizedDescription
        }
    }

    private func showProgress(_ share: Double) {
        if case .opening = phase { phase = .opening(share) }
    }

    private func stream(_ prompt: String, _ session: Session) async {
        do {
            let images = photo.map { [kept.map(ImageInput.encoded) ?? .pixels($0.decode)] } ?? []
            let chat = await session.chat(images: images)
            let pieces = try await chat.send(prompt)
            for try await piece in pieces {
                answer += piece.text
            }
            stats = await pieces.stats
            kept = await chat.imageKV
            keptImage = kept != nil
        } catch is CancellationError {
            answer += " [stopped]"
        } catch {
            problem = error.localizedDescription
        }
    }
}
