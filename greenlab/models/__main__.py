"""`python -m greenlab.models`: what every model of the configuration weighs."""

from greenlab.model_cards import main

if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
